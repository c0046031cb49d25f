"""The grammar of ``reconciler container``."""

from __future__ import annotations

from argparse import REMAINDER
from collections.abc import Sequence
from typing import Any

from reconciler.cli.command import Parser, command


def add(commands: Any, arguments: Sequence[str] = ()) -> None:
    """Adds ``container`` and its subcommands, or as many of them as parsing ``arguments`` takes."""
    container = commands.add_parser("container", help="run and look at containers")
    verbs = container.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _run(verbs)
    if arguments[:1] == ["run"]:
        return
    _list(verbs)
    _life(verbs)
    _inside(verbs)


def _run(verbs: Any) -> None:
    run = verbs.add_parser("run", help="make a container and run it", allow_abbrev=False)
    run.add_argument("-d", "--detach", action="store_true", help="leave it running and print its id")
    run.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    run.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    run.add_argument("--rm", action="store_true", help="remove it when it has ended")
    run.add_argument("--name", metavar="NAME")
    run.add_argument("-e", "--env", action="append", default=[], metavar="K=V", help="K alone takes our own value")
    run.add_argument("-v", "--volume", action="append", default=[], metavar="SRC:DST[:ro]")
    run.add_argument("-p", "--publish", action="append", default=[], metavar="[IP:]HOST:CONT[/PROTO]")
    run.add_argument("--network", default="bridge", metavar="NAME", help="bridge (default), none, or STACK/NAME")
    run.add_argument("-w", "--workdir", default="", metavar="DIR")
    run.add_argument("-u", "--user", default="", metavar="USER[:GROUP]")
    run.add_argument("--entrypoint", metavar="PROGRAM")
    run.add_argument("--init", action="store_true", help="a first process that reaps and passes signals on")
    run.add_argument("--memory", metavar="SIZE", help="such as 512m")
    run.add_argument("-l", "--label", action="append", default=[], metavar="K=V")
    run.add_argument("--restart", default="no", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped")
    run.add_argument("--stop-signal", default="", metavar="SIGNAL")
    run.add_argument("--stop-timeout", type=float, default=10.0, metavar="SECONDS")
    run.add_argument("--pull", choices=("missing", "always", "never"), default="missing")
    run.add_argument("--platform", metavar="OS/ARCH")
    run.add_argument("--plain-http", action="store_true", help="the registry speaks plain HTTP")
    run.add_argument("image", metavar="IMAGE")
    run.add_argument("command", nargs=REMAINDER, metavar="COMMAND")
    run.set_defaults(run=command("container_run"))


def _list(verbs: Any) -> None:
    listing = verbs.add_parser("ls", help="list containers", allow_abbrev=False)
    listing.add_argument("-a", "--all", action="store_true", help="also those that do not run")
    listing.add_argument("-q", "--quiet", action="store_true", help="ids alone")
    listing.add_argument("--no-trunc", action="store_true", help="whole ids and commands")
    listing.add_argument("-o", "--output", choices=("text", "json"), default="text")
    listing.set_defaults(run=command("container_list"))

    inspect = verbs.add_parser("inspect", help="all about containers, as JSON", allow_abbrev=False)
    _names(inspect)
    inspect.set_defaults(run=command("container_inspect"))


def _life(verbs: Any) -> None:
    start = verbs.add_parser("start", help="start containers again", allow_abbrev=False)
    start.add_argument("-a", "--attach", action="store_true", help="show its output and give its exit code")
    start.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    _names(start)
    start.set_defaults(run=command("container_run", "start"))

    stop = verbs.add_parser("stop", help="ask containers to end", allow_abbrev=False)
    stop.add_argument(
        "-t", "--timeout", type=float, metavar="SECONDS", help="then kill them (default: their own; -1: never)"
    )
    _names(stop)
    stop.set_defaults(run=command("container_life", "stop"))

    kill = verbs.add_parser("kill", help="send containers a signal", allow_abbrev=False)
    kill.add_argument("-s", "--signal", default="SIGKILL", metavar="SIGNAL")
    _names(kill)
    kill.set_defaults(run=command("container_life", "kill"))

    wait = verbs.add_parser("wait", help="wait until containers end; print their exit codes", allow_abbrev=False)
    _names(wait)
    wait.set_defaults(run=command("container_life", "wait"))

    remove = verbs.add_parser("rm", help="remove containers and what they wrote", allow_abbrev=False)
    remove.add_argument("-f", "--force", action="store_true", help="kill those that run")
    _names(remove)
    remove.set_defaults(run=command("container_life", "remove"))


def _inside(verbs: Any) -> None:
    logs = verbs.add_parser("logs", help="what a container printed", allow_abbrev=False)
    logs.add_argument("-f", "--follow", action="store_true", help="and what it prints, until it ends")
    logs.add_argument("-n", "--tail", metavar="N", help="the last N lines (default: all)")
    logs.add_argument("--since", metavar="TIME", help="a date such as 2026-01-31T08:00:00Z, or an age such as 10m")
    logs.add_argument("-t", "--timestamps", action="store_true")
    logs.add_argument("name", metavar="NAME")
    logs.set_defaults(run=command("container_logs"))

    execute = verbs.add_parser("exec", help="run one more program in a container", allow_abbrev=False)
    execute.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    execute.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    execute.add_argument("-u", "--user", metavar="USER[:GROUP]")
    execute.add_argument("-w", "--workdir", metavar="DIR")
    execute.add_argument("-e", "--env", action="append", default=[], metavar="K=V")
    execute.add_argument("name", metavar="NAME")
    execute.add_argument("command", nargs=REMAINDER, metavar="COMMAND")
    execute.set_defaults(run=command("container_exec"))

    commit = verbs.add_parser("commit", help="make an image of a container", allow_abbrev=False)
    commit.add_argument("-a", "--author", default="", metavar="NAME")
    commit.add_argument("-m", "--message", default="", metavar="TEXT")
    commit.add_argument(
        "-c",
        "--change",
        action="append",
        default=[],
        metavar="INSTRUCTION",
        help="""such as 'CMD ["sh"]' or 'ENV K=V'""",
    )
    commit.add_argument(
        "-p", "--pause", choices=("true", "false"), default="true", help="keep it still meanwhile (default: true)"
    )
    commit.add_argument("name", metavar="NAME")
    commit.add_argument("reference", nargs="?", metavar="REFERENCE")
    commit.set_defaults(run=command("container_commit"))

    diff = verbs.add_parser("diff", help="what a container changed of its image", allow_abbrev=False)
    diff.add_argument("name", metavar="NAME")
    diff.add_argument("-o", "--output", choices=("text", "json"), default="text")
    diff.set_defaults(run=command("container_diff"))


def _names(parser: Parser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")
