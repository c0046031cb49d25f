"""Runs the git command so that only what we say decides what it does.

Its environment is built from nothing and its configuration is ours alone: no system or user configuration, hooks,
attributes, credential stores, prompts, proxies of the environment or helper daemons. A repository's own content never
becomes a command: nothing is checked out, so no filter, attribute or submodule takes part.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from reconciler.errors import HostError, InvalidError
from reconciler.source.remote import Credential, Remote
from reconciler.value import dataclass

_MAX_STDERR = 64 * 1024
_CHUNK = 1 << 16
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/nonexistent",  # curl would read ~/.netrc
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_SSH_VARIANT": "ssh",
}

_CONFIGURATION = (
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.fsmonitor=false",
    "core.logAllRefUpdates=false",
    "core.fsync=committed,reference",
    "credential.helper=",
    "fetch.fsckObjects=true",
    "fetch.recurseSubmodules=false",
    # Maintenance in the background would outlive us and the lock of the daemon.
    "gc.autoDetach=false",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
)

_HINTS = (
    ("host key verification failed", "put the host's key, checked, into known_hosts: it is never learnt by itself"),
    ("could not read username", "give a credential for this host"),
    ("authentication failed", "check the credential for this host"),
    ("permission denied", "check the ssh key, and that it may read the repository"),
    ("could not resolve host", "check the network and the name"),
    ("not our ref", "name a branch: this server does not give single commits"),
    ("file size limit exceeded", "raise the limit on the size of a repository, or use a smaller one"),
    ("signal 25", "raise the limit on the size of a repository, or use a smaller one"),
    ("fsck", "the repository holds a malformed object: repair it there"),
    ("shallow", "use a complete clone of the repository"),
)


@dataclass(frozen=True, slots=True)
class GitOptions:
    """How to reach repositories. Times are seconds, sizes bytes; ``ssh_key`` None leaves the choice to ssh."""

    ssh_key: Path | None = None
    known_hosts: Path | None = None
    ca_file: Path | None = None
    timeout: float = 300.0
    max_file_bytes: int = 2 * 1024**3
    """The largest file git may write, hence the largest pack it may receive."""


class Git:
    """The git command on one bare repository."""

    def __init__(self, directory: Path, options: GitOptions) -> None:
        self.directory = directory
        self._options = options

    def run(self, *arguments: str, limit: int = 1 << 20, remote: Remote | None = None) -> bytes:
        """Runs one command to its end and returns its output. ``remote`` is the only repository it may talk to.

        Raises ``HostError`` when it fails or takes longer than the timeout, ``InvalidError`` when the output is larger
        than ``limit`` bytes.
        """
        status, output, errors = self._finish(arguments, limit, remote)
        if status != 0:
            raise self._failure(arguments[0], status, errors, remote)
        return output

    def ask(self, *arguments: str) -> bytes | None:
        """The output of a command that says no by exit code 1, which is None here. Raises ``HostError`` otherwise."""
        status, output, errors = self._finish(arguments, 1 << 20, None)
        if status not in (0, 1):
            raise self._failure(arguments[0], status, errors, None)
        return output if status == 0 else None

    @contextlib.contextmanager
    def conversation(self, *arguments: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """A command that is asked on its input and answers on its output, until the block ends."""
        with self._start(arguments, None, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield process.stdin, process.stdout
            except BrokenPipeError as error:
                raise HostError(f"git {arguments[0]} in {self.directory} ended too soon", hint="try again") from error
            finally:
                process.kill()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()

    def _finish(self, arguments: Sequence[str], limit: int, remote: Remote | None) -> tuple[int, bytes, str]:
        with self._start(arguments, remote, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                output, errors = _collect(process, limit, time.monotonic() + self._options.timeout)
                status = process.wait()
            except BaseException as error:
                # Its children (ssh, index-pack) hold the pipes too: the whole group has to go.
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, TimeoutError):
                    seconds = self._options.timeout
                    raise HostError(
                        f"git {arguments[0]} took longer than {seconds:g} seconds", hint="check the network"
                    ) from None
                if isinstance(error, OverflowError):
                    raise InvalidError(
                        f"git {arguments[0]} gave more than {limit} bytes", hint="use a smaller repository"
                    ) from None
                raise
        return status, output, errors.decode("utf-8", "replace")

    @contextlib.contextmanager
    def _start(
        self, arguments: Sequence[str], remote: Remote | None, *, stdin: int, stderr: int
    ) -> Iterator[subprocess.Popen[bytes]]:
        with contextlib.ExitStack() as held:
            settings = [*_CONFIGURATION, *self._settings(remote)]
            descriptors: tuple[int, ...] = ()
            if remote is not None and remote.credential is not None:
                secret = held.enter_context(_in_memory(remote.credential))
                settings.append(_helper(remote.origin, secret))
                descriptors = (secret,)
            command = ["prlimit", f"--fsize={self._options.max_file_bytes}", "--", "git"]
            for setting in settings:
                command += ["-c", setting]
            try:
                process = subprocess.Popen(
                    [*command, *arguments],
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=self._environment(remote),
                    cwd="/",
                    pass_fds=descriptors,
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise HostError("the git command needs prlimit", hint="install the package util-linux") from error
            with process:
                yield process

    def _settings(self, remote: Remote | None) -> list[str]:
        if remote is not None and remote.transport == "https" and self._options.ca_file is not None:
            return [f"http.sslCAInfo={self._options.ca_file}"]
        return []

    def _environment(self, remote: Remote | None) -> dict[str, str]:
        ssh = ["ssh", "-F", "/dev/null"]
        options = ["BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=30", "ClearAllForwardings=yes"]
        options += ["PermitLocalCommand=no", "ForwardAgent=no", "ProxyCommand=none", "ControlPath=none"]
        if self._options.known_hosts is not None:
            options.append(f"UserKnownHostsFile={self._options.known_hosts}")
        if self._options.ssh_key is not None:
            options += [f"IdentityFile={self._options.ssh_key}", "IdentitiesOnly=yes"]
        for option in options:
            ssh += ["-o", option]
        return {
            **_ENVIRONMENT,
            "GIT_DIR": str(self.directory),
            # This variable outranks every protocol.*.allow setting; empty allows none.
            "GIT_ALLOW_PROTOCOL": remote.transport if remote is not None else "",
            "GIT_SSH_COMMAND": shlex.join(ssh),
        }

    def _failure(self, verb: str, status: int, errors: str, remote: Remote | None) -> HostError:
        if status == 127 or "prlimit: failed to execute git" in errors:
            return HostError("the git command is not installed", hint="install the package git")
        text = printable(redacted(errors, remote.credential if remote else None))
        hint = next((advice for sign, advice in _HINTS if sign in text.lower()), "check the repository and the network")
        what = f"git {verb} {remote.url}" if remote is not None else f"git {verb} in {self.directory}"
        return HostError(f"{what} failed: {text or f'exit {status}'}", hint=hint)


def redacted(text: str, credential: Credential | None) -> str:
    """``text`` without the credential, and without whatever else stands before the ``@`` of a URL."""
    if credential is not None:
        for secret in filter(None, (credential.password, credential.username)):
            text = text.replace(secret, "***")
    return re.sub(r"(\w://)[^/@\s']*@", r"\1***@", text)


def printable(text: str, limit: int = 500) -> str:
    """The last part of a foreign message, on one line, without characters that move the cursor or turn text round."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _UNPRINTABLE.sub("?", "; ".join(lines))[-limit:]


def _collect(process: subprocess.Popen[bytes], limit: int, deadline: float) -> tuple[bytes, bytes]:
    """Both outputs to their ends; of stderr at most the last part. Raises ``TimeoutError``, ``OverflowError``."""
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, errors)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
            if len(output) > limit:
                raise OverflowError
            del errors[:-_MAX_STDERR]
    return bytes(output), bytes(errors)


@contextlib.contextmanager
def _in_memory(credential: Credential) -> Iterator[int]:
    """The credential in a file that has no name: only processes that inherit the descriptor can read it."""
    descriptor = os.memfd_create("credential", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"username={credential.username}\npassword={credential.password}\n".encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _helper(origin: str, descriptor: int) -> str:
    # Bound to the origin: after a redirect to another host, git finds no helper for it.
    return f'credential.{origin}.helper=!f() {{ test "$1" = get && cat /dev/fd/{descriptor}; }}; f'
