"""How the argument list and the environment of a container's process come about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.errors import InvalidError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def assemble_args(
    image_entrypoint: Sequence[str],
    image_cmd: Sequence[str],
    entrypoint: Sequence[str] | None,
    command: Sequence[str] | None,
) -> tuple[str, ...]:
    """ENTRYPOINT followed by CMD, each the image's unless given (None: not given).

    A given entrypoint drops the image's CMD, which was written for the image's entrypoint. Raises ``InvalidError``
    when nothing is left to run.
    """
    if entrypoint is None:
        args = (*image_entrypoint, *(image_cmd if command is None else command))
    else:
        args = (*entrypoint, *(command or ()))
    if not args or not args[0]:
        raise InvalidError(
            "the container has no command to run", hint="Give it a command: neither the image nor the spec has one."
        )
    if any("\0" in arg for arg in args):
        raise InvalidError("an argument of the command holds a NUL byte")
    return args


def assemble_environment(
    image_env: Iterable[str], overrides: Iterable[tuple[str, str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The environment as ``NAME=value`` strings in order of first appearance, and the image's entries left out.

    An image's entry without ``=``, with an empty name or of the form ``NAME*`` asks for the caller's own environment,
    and is never given it. Values are kept byte for byte. Raises ``InvalidError`` on a NUL or a bad name in
    ``overrides``.
    """
    env: dict[str, str] = {}
    dropped: list[str] = []
    for entry in image_env:
        name, equals, value = entry.partition("=")
        if not equals or not name or name.endswith("*") or "\0" in entry:
            dropped.append(name)
        else:
            env[name] = value
    for name, value in overrides:
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidError(f"environment variable {name!r} has no valid name, or its value holds a NUL byte")
        env[name] = value
    return tuple(f"{name}={value}" for name, value in env.items()), tuple(dropped)


def complete_environment(env: Iterable[str], *, home: str, hostname: str, terminal: bool) -> tuple[str, ...]:
    """``env`` with what every process expects, as Docker gives it: PATH, HOSTNAME, TERM on a terminal, and HOME."""
    given = tuple(env)
    names = {entry.partition("=")[0] for entry in given}
    defaults = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "TERM": "xterm" if terminal else "", "HOME": home}
    return (*(f"{name}={value}" for name, value in defaults.items() if value and name not in names), *given)


def search_path(env: Iterable[str]) -> tuple[str, ...]:
    """The directories of PATH in ``env``; an empty one means the working directory, as POSIX has it."""
    for entry in env:
        name, _, value = entry.partition("=")
        if name == "PATH":
            return tuple(directory or "." for directory in value.split(":"))
    return tuple(DEFAULT_PATH.split(":"))
