"""The argument grammar of ``reconciler``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile
from typing import Any

from reconciler import __version__
from reconciler.cli import container_arguments, image_arguments
from reconciler.cli.command import Parser, command
from reconciler.cli.context import DEFAULT_ROOT


def build_parser(arguments: Sequence[str] = ()) -> Parser:
    """The grammar, or as much of it as parsing ``arguments`` takes: all of it would take every command 20 ms."""
    parser = Parser(
        prog="reconciler",
        description="Declarative images, tags, containers and registry mirrors for one host.",
    )
    parser.add_argument("--version", action="version", version=f"reconciler {__version__}")
    parser.add_argument("--root", metavar="DIR", help=f"all state (RECONCILER_ROOT; default {DEFAULT_ROOT})")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")
    parser.add_argument(
        "--lock-timeout", type=_seconds, default=10.0, metavar="SECONDS", help="wait this long for another writer"
    )
    parser.add_argument("--progress", choices=("auto", "tty", "plain", "json", "quiet"), default="auto")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    match list(dropwhile(_is_whole_option, arguments)):
        # A command that comes first is the command: nothing can name another, or ask for all their names.
        case ["image", *_]:
            image_arguments.add(commands)
        case ["container", *rest]:
            container_arguments.add(commands, rest)
        case _:
            _spec_commands(commands)
            _host_commands(commands)
            image_arguments.add(commands)
            container_arguments.add(commands)
    return parser


def _is_whole_option(argument: str) -> bool:
    return argument.startswith("--") and "=" in argument


def _spec_commands(commands: Any) -> None:
    validate = commands.add_parser("validate", help="check specs; needs no host")
    _spec_arguments(validate)
    validate.set_defaults(run=command("validate"))

    plan = commands.add_parser("plan", help="show what would change; changes nothing")
    _spec_arguments(plan)
    _plan_arguments(plan)
    plan.add_argument("-o", "--output", choices=("text", "json", "markdown"), default="text")
    plan.add_argument("--detailed-exitcode", action="store_true", help="exit 2 when there are changes")
    plan.add_argument("--out", metavar="FILE", help="save the plan for `apply FILE`")
    plan.set_defaults(run=command("plan"))

    apply = commands.add_parser("apply", help="make it so")
    _spec_arguments(apply)
    _plan_arguments(apply)
    apply.add_argument("-o", "--output", choices=("text", "json"), default="text")
    apply.add_argument("--yes", action="store_true", help="do not ask")
    apply.set_defaults(run=command("apply"))

    update = commands.add_parser("update", help="show what the pins in specs would say now; --write writes it")
    _spec_arguments(update)
    form = update.add_mutually_exclusive_group()
    form.add_argument("--write", action="store_true", help="write the pins into the spec files")
    form.add_argument("--diff", action="store_true", help="print the change as a patch for `git apply`")
    update.add_argument("-o", "--output", choices=("text", "json"), default="text")
    update.set_defaults(run=command("update"))

    daemon = commands.add_parser("daemon", help="keep it so")
    _spec_arguments(daemon, paths="*")
    daemon.add_argument("--git", metavar="URL", help="take the specs from a git repository instead of PATH")
    daemon.add_argument("--ref", default="HEAD", help="the branch, tag or commit to follow")
    daemon.add_argument("--path", default="", metavar="DIR", help="the directory of the repository to read")
    daemon.add_argument("--interval", type=_duration, default=60.0, metavar="TIME", help="such as 60s or 5m")
    daemon.add_argument("--max-deletes", type=int, metavar="N")
    daemon.set_defaults(run=command("daemon"))


def _host_commands(commands: Any) -> None:
    status = commands.add_parser("status", help="what this host has, and how it is")
    status.add_argument("-o", "--output", choices=("text", "json"), default="text")
    status.set_defaults(run=command("status"))

    destroy = commands.add_parser("destroy", help="remove all that stacks own")
    destroy.add_argument("stacks", nargs="*", metavar="STACK")
    destroy.add_argument("--all", action="store_true", help="every stack of this root")
    destroy.add_argument("--yes", action="store_true", help="do not ask")
    destroy.add_argument("--delete-volumes", action="store_true", help="also delete the data of volumes")
    destroy.add_argument("-o", "--output", choices=("text", "json"), default="text")
    destroy.set_defaults(run=command("apply", "destroy"))

    gc = commands.add_parser("gc", help="free what nothing needs")
    gc.add_argument("--plan", action="store_true", help="list what would go, and why; frees nothing")
    gc.add_argument("-o", "--output", choices=("text", "json"), default="text")
    gc.set_defaults(run=command("gc"))

    store = commands.add_parser("store", help="the store itself").add_subparsers(
        metavar="COMMAND", required=True, parser_class=Parser
    )
    verify = store.add_parser("verify", help="check every claim of the store against the disk; changes nothing")
    verify.add_argument("--layers", action="store_true", help="also every file of every unpacked layer")
    verify.add_argument("--repair", action="store_true", help="fetch, unpack or rebuild what is damaged")
    verify.add_argument("-o", "--output", choices=("text", "json"), default="text")
    verify.set_defaults(run=command("store_verify"))

    why = commands.add_parser("why", help="who keeps an image, a layer or a blob")
    why.add_argument("name", metavar="DIGEST|NAME", help="a digest or its beginning, or the name of an image")
    why.add_argument("-o", "--output", choices=("text", "json"), default="text")
    why.set_defaults(run=command("why"))

    login = commands.add_parser("login", help="store credentials for a registry")
    login.add_argument("registry", metavar="HOST")
    login.add_argument("-u", "--username", help="asked for on a terminal when absent")
    login.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    login.add_argument("--plain-http", action="store_true", help="the registry speaks plain HTTP")
    login.set_defaults(run=command("login"))

    logout = commands.add_parser("logout", help="forget the credentials for a registry")
    logout.add_argument("registry", metavar="HOST")
    logout.set_defaults(run=command("login", "logout"))


def _spec_arguments(parser: Parser, paths: str = "*") -> None:
    parser.add_argument("paths", nargs=paths, metavar="PATH", help="spec files or directories (default: .)")
    parser.add_argument("-R", "--recursive", action="store_true", help="also the subdirectories")
    parser.add_argument("--label", action="append", default=[], metavar="K=V", help="a label of this host")
    parser.add_argument("--var", action="append", default=[], metavar="K=V", help="a variable for ${K}")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="take ${NAME} from the environment")
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="variables from a file")


def _plan_arguments(parser: Parser) -> None:
    parser.add_argument("--max-deletes", type=int, metavar="N", help="allow this many deletions")
    parser.add_argument("--allow-empty", action="store_true", help="allow specs that declare nothing")
    parser.add_argument("--delete-volumes", action="store_true", help="also delete the data of volumes that left")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86400:
        raise ValueError
    return value


_seconds.__name__ = "number of seconds (0 to 86400)"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(text: str) -> float:
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            value = float(number) * factor
            if 0.1 <= value <= 86400:
                return value
    raise ValueError


_duration.__name__ = "duration such as 30s, 5m or 1h"
