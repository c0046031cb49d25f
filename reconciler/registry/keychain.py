"""Credential helpers: ``docker-credential-NAME`` programs, which keep logins in a keychain.

The protocol is Docker's (docker-credential-helpers): an action as the argument, the rest on standard input, the answer
on standard output. A secret goes through pipes only: never into an argument, nor a program's words into an error.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from reconciler.clock import Clock
from reconciler.errors import AuthError
from reconciler.registry.hosts import HUB, Credentials, canonical_host

HUB_SERVER = "https://index.docker.io/v1/"
"""What docker calls Docker Hub in its files and to helpers."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_NOT_FOUND = b"credentials not found in native keychain"
_IDENTITY = "<token>"  # the user name that stands for "the secret is an identity token"
_MAX_OUTPUT = 64 * 1024
_MAX_INPUT = 32 * 1024  # it fits into a pipe, so that writing it never waits for a helper that does not read
_SECONDS = 30.0
_REMEMBERED = 300.0


class Helpers:
    """Runs helpers with ``environment``. What they gave is remembered for minutes, for a pull asks often."""

    def __init__(self, environment: Mapping[str, str], clock: Clock, *, seconds: float = _SECONDS) -> None:
        self._environment = environment
        self._clock = clock
        self._seconds = seconds
        self._guard = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, Credentials | None]] = {}

    def get(self, name: str, host: str) -> Credentials | None:
        """The login that helper ``name`` keeps for ``host``; None when it has none. Raises ``AuthError``."""
        with self._guard:
            until, known = self._known.get((name, host), (0.0, None))
            if self._clock.monotonic() < until:
                return known
            found = next((login for server in _servers(host) if (login := self._get(name, server)) is not None), None)
            self._known[name, host] = (self._clock.monotonic() + _REMEMBERED, found)
            return found

    def store(self, name: str, host: str, login: Credentials) -> None:
        """Gives ``login`` to the helper to keep. Raises ``AuthError``."""
        secret = login.identity_token or login.password
        username = _IDENTITY if login.identity_token else login.username
        document = {"ServerURL": _servers(host)[0], "Username": username, "Secret": secret}
        self._run(name, "store", json.dumps(document).encode())
        self._known.clear()

    def erase(self, name: str, host: str) -> bool:
        """Has the helper forget the login for ``host``; False when it had none. Raises ``AuthError``."""
        self._known.clear()
        erased = False
        for server in _servers(host):
            if self._get(name, server) is not None:
                self._run(name, "erase", server.encode())
                erased = True
        return erased

    def _get(self, name: str, server: str) -> Credentials | None:
        answer = self._run(name, "get", server.encode())
        if answer is None:
            return None
        try:
            document: Any = json.loads(answer)
            username, secret = document["Username"], document["Secret"]
            usable = isinstance(username, str) and isinstance(secret, str)
        except (ValueError, RecursionError, TypeError, KeyError):
            usable = False
        if not usable:
            raise AuthError(f"docker-credential-{name} gave no login for {server} that can be read")
        if not secret:
            return None
        return Credentials("", "", secret) if username == _IDENTITY else Credentials(username, secret)

    def _run(self, name: str, action: str, given: bytes) -> bytes | None:
        """What the helper answered; None when it says that it knows no such login."""
        if _NAME.fullmatch(name) is None:
            raise AuthError(
                f"{name[:80]!a} is no name of a credential helper", hint="write NAME of docker-credential-NAME"
            )
        if len(given) > _MAX_INPUT:
            raise AuthError(f"the login is too long for docker-credential-{name}")
        program = shutil.which(f"docker-credential-{name}", path=self._environment.get("PATH", os.defpath))
        if program is None:
            raise AuthError(
                f"the credential helper docker-credential-{name} is not in PATH",
                hint="install it, or declare the login otherwise",
            )
        try:
            code, output = _exchange([program, action], given, self._environment, self._seconds)
        except TimeoutError:
            raise AuthError(f"docker-credential-{name} {action} did not end within {self._seconds:g} s") from None
        except OSError as error:
            raise AuthError(f"cannot run docker-credential-{name}: {error.strerror}") from None
        if code == 0:
            return output
        if action == "get" and _NOT_FOUND in output:
            return None
        raise AuthError(
            f"docker-credential-{name} {action} failed with code {code}",
            hint=f"its words may hold a secret and are not shown: run `docker-credential-{name} {action}` by hand",
        )


def _servers(host: str) -> tuple[str, ...]:
    """By which names a helper may know a host; the first is docker's own."""
    host = canonical_host(host)
    return (HUB_SERVER, HUB) if host == HUB else (host, f"https://{host}")


def _exchange(command: list[str], given: bytes, environment: Mapping[str, str], seconds: float) -> tuple[int, bytes]:
    """Exit code and output. Raises ``TimeoutError`` when it takes too long; what it started is then ended with it."""
    deadline = time.monotonic() + seconds
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(environment),
        cwd="/",
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        with process.stdout as answer:
            with suppress(BrokenPipeError), process.stdin as question:
                question.write(given)
            output = _read(answer, deadline)
            if output is None:
                raise TimeoutError
            if len(output) > _MAX_OUTPUT:
                os.killpg(process.pid, signal.SIGKILL)
        return process.wait(max(0.1, deadline - time.monotonic())), output
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read(answer: IO[bytes], deadline: float) -> bytes | None:
    """All output, or a little more than what is allowed; None when the deadline comes first."""
    poll = select.poll()
    poll.register(answer, select.POLLIN)
    output = bytearray()
    while len(output) <= _MAX_OUTPUT:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        piece = os.read(answer.fileno(), _MAX_OUTPUT)
        if not piece:
            break
        output += piece
    return bytes(output)
