"""``reconciler login`` and ``logout``: credentials where Docker keeps its own, so that both programs know them.

That is Docker's file, readable by its owner only, or the credential helper that this file puts in charge.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from reconciler.cli.context import Context, login_file
from reconciler.clock import SystemClock
from reconciler.engine.embedded.images.adhoc import plain_hosts
from reconciler.engine.embedded.registries import make_client, read_login_file, recorded_facts
from reconciler.engine.embedded.state import open_reader
from reconciler.errors import AuthError, InvalidError, NotFoundError, UsageError
from reconciler.linux import durable
from reconciler.oci.reference import parse_registry
from reconciler.registry.dockerconfig import DockerConfig, with_login, without_login
from reconciler.registry.hosts import Credentials, canonical_host
from reconciler.registry.keychain import Helpers

_MAX_PASSWORD = 64 * 1024


def run(context: Context, options: argparse.Namespace) -> int:
    """Tries the login at the registry and stores it only when that lets us in."""
    host = parse_registry(options.registry)
    username = options.username or _username(context)
    if ":" in username:
        raise InvalidError(f"the user name {username!a} has a colon in it", hint="no login can hold one (RFC 7617)")
    login = Credentials(username, _password(context, options))
    if not _try(context, host, login, plain_http=options.plain_http):
        context.note(f"warning: {host} asks for no login: nobody checked this one")
    path = login_file(context.environment).resolve()
    text = read_login_file(path) or ""
    helper = DockerConfig.parse(text, str(path)).helper_for(host)
    if helper:
        Helpers(context.environment, SystemClock()).store(helper, host, login)
    _write(path, with_login(text, str(path), host, None if helper else login))
    where = f"in docker-credential-{helper}" if helper else f"in {path}, unencrypted"
    context.note(f"Login for {host} stored {where}.")
    return 0


def logout(context: Context, options: argparse.Namespace) -> int:
    """Takes the login out of the file, and of the helper in charge; it is not revoked at the registry."""
    host = parse_registry(options.registry)
    path = login_file(context.environment).resolve()
    held = read_login_file(path) or ""
    helper = DockerConfig.parse(held, str(path)).helper_for(host)
    erased = bool(helper) and Helpers(context.environment, SystemClock()).erase(helper, host)
    text = without_login(held, str(path), host)
    if text is None and not erased:
        raise NotFoundError(
            f"no login for {host} in {path}", hint="look for it in the other files of docker and podman"
        )
    if text is not None:
        _write(path, text)
    context.note(f"Login for {host} removed from {f'docker-credential-{helper}' if erased else path}.")
    return 0


def _try(context: Context, host: str, login: Credentials, *, plain_http: bool) -> bool:
    """Whether the registry wanted the login, which was then right. Raises ``AuthError`` when it was wrong."""
    wanted = False

    def given(asked: str, _repository: str) -> Credentials | None:
        nonlocal wanted
        if asked != canonical_host(host):
            return None
        wanted = True
        return login

    state = open_reader(context.root)
    try:
        facts = plain_hosts(state, host) if plain_http else recorded_facts(state.facts.all())
    finally:
        state.close()
    client = make_client(facts, context.surroundings(), given)
    try:
        client.check_access(host)
    except AuthError as error:
        raise AuthError(
            f"{host} refused the login of {login.username!a}, and nothing was stored ({error})",
            hint="check the user name and the password",
        ) from None
    finally:
        client.close()
    return wanted


def _username(context: Context) -> str:
    if not context.interactive:
        raise UsageError("there is no terminal to ask for the user name on", hint="use --username")
    context.stderr.write("Username: ")
    context.stderr.flush()
    name = sys.stdin.readline().strip()
    if not name:
        raise InvalidError("the user name is empty", hint="type it, or give --username")
    return name


def _password(context: Context, options: argparse.Namespace) -> str:
    if options.password_stdin:
        # One line end is the shell's, not the password's.
        text = _given().removesuffix("\n").removesuffix("\r")
    elif context.interactive:
        text = getpass.getpass("Password: ", stream=context.stderr)
    else:
        raise UsageError("there is no terminal to ask for the password on", hint="use --password-stdin")
    if not text:
        raise InvalidError("the password is empty", hint="give it on standard input, or type it")
    return text


def _given() -> str:
    """Standard input. Raises ``InvalidError`` for what no file of logins can hold."""
    try:
        text = sys.stdin.read(_MAX_PASSWORD + 1)
        text.encode()
    except UnicodeError:
        raise InvalidError("the password is not UTF-8 text", hint="give it as text on standard input") from None
    if len(text) > _MAX_PASSWORD:
        raise InvalidError(f"the password has more than {_MAX_PASSWORD} characters", hint="give the password alone")
    return text


def _write(path: Path, text: str) -> None:
    with durable.guarded("create", path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.write_file(path, text.encode(), point="login.file", mode=0o600)
