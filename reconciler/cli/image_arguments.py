"""The grammar of ``reconciler image``."""

from __future__ import annotations

from typing import Any

from reconciler.cli.command import Parser, command


def add(commands: Any) -> None:
    """Adds ``image`` and its subcommands."""
    image = commands.add_parser("image", help="pull, push, name and look at images")
    verbs = image.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _look(verbs)
    _transfer(verbs)
    _names(verbs)


def _look(verbs: Any) -> None:
    listing = verbs.add_parser("ls", help="list images", allow_abbrev=False)
    listing.add_argument("-q", "--quiet", action="store_true", help="ids alone")
    listing.add_argument("--digests", action="store_true", help="show digests")
    listing.add_argument("--no-trunc", action="store_true", help="whole ids")
    listing.add_argument("-o", "--output", choices=("text", "json"), default="text")
    listing.set_defaults(run=command("image_list"))

    history = verbs.add_parser("history", help="how an image came to be", allow_abbrev=False)
    history.add_argument("name", metavar="NAME")
    history.add_argument("--no-trunc", action="store_true", help="whole ids and commands")
    history.add_argument("-o", "--output", choices=("text", "json"), default="text")
    history.set_defaults(run=command("image_history"))

    inspect = verbs.add_parser("inspect", help="all about images, as JSON", allow_abbrev=False)
    inspect.add_argument("names", nargs="+", metavar="NAME")
    inspect.set_defaults(run=command("image_inspect"))


def _transfer(verbs: Any) -> None:
    pull = verbs.add_parser("pull", help="fetch an image", allow_abbrev=False)
    pull.add_argument("--platform", metavar="OS/ARCH", help="another than this host's")
    pull.add_argument("--plain-http", action="store_true", help="the registry speaks plain HTTP")
    pull.add_argument("reference", metavar="REFERENCE")
    pull.set_defaults(run=command("image_transfer", "pull"))

    push = verbs.add_parser("push", help="send an image to its registry", allow_abbrev=False)
    push.add_argument("--plain-http", action="store_true", help="the registry speaks plain HTTP")
    push.add_argument("reference", metavar="REFERENCE")
    push.set_defaults(run=command("image_transfer", "push"))


def _names(verbs: Any) -> None:
    tag = verbs.add_parser("tag", help="give an image one more name", allow_abbrev=False)
    tag.add_argument("source", metavar="NAME")
    tag.add_argument("target", metavar="REFERENCE")
    tag.set_defaults(run=command("image_names", "tag"))

    remove = verbs.add_parser("rm", help="take names away, and images that have none left", allow_abbrev=False)
    remove.add_argument("-f", "--force", action="store_true", help="also names that stopped containers use")
    remove.add_argument("names", nargs="+", metavar="NAME")
    remove.set_defaults(run=command("image_names", "remove"))
