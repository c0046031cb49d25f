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
    _archives(verbs)
    _names(verbs)


def _look(verbs: Any) -> None:
    listing = verbs.add_parser("ls", help="list images", allow_abbrev=False)
    listing.add_argument("-q", "--quiet", action="store_true", help="ids alone")
    listing.add_argument("--digests", action="store_true", help="show digests")
    listing.add_argument("--no-trunc", action="store_true", help="whole ids")
    listing.add_argument(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="dangling=true|false, reference=PATTERN",
    )
    listing.add_argument("-o", "--output", choices=("text", "json"), default="text")
    listing.add_argument("patterns", nargs="*", metavar="PATTERN", help="only names like this; * stands for anything")
    listing.set_defaults(run=command("image_list"))

    history = verbs.add_parser("history", help="how an image came to be", allow_abbrev=False)
    history.add_argument("name", metavar="NAME")
    history.add_argument("-q", "--quiet", action="store_true", help="ids alone")
    history.add_argument("--no-trunc", action="store_true", help="whole ids and commands")
    history.add_argument("-o", "--output", choices=("text", "json"), default="text")
    history.set_defaults(run=command("image_history"))

    inspect = verbs.add_parser("inspect", help="all about images, as JSON", allow_abbrev=False)
    inspect.add_argument("names", nargs="+", metavar="NAME")
    inspect.add_argument("--oci", action="store_true", help="with the manifest, the config and the index")
    inspect.add_argument("--raw", choices=("manifest", "config", "index"), help="the bytes of that document alone")
    inspect.set_defaults(run=command("image_inspect"))

    diff = verbs.add_parser("diff", help="how two images differ: layers and files", allow_abbrev=False)
    diff.add_argument("first", metavar="NAME")
    diff.add_argument("second", metavar="NAME")
    diff.add_argument("-o", "--output", choices=("text", "json"), default="text")
    diff.set_defaults(run=command("image_diff"))


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


def _archives(verbs: Any) -> None:
    save = verbs.add_parser("save", help="write images to an archive", allow_abbrev=False)
    save.add_argument("-o", "--output", metavar="FILE", default="-", help="default: standard output")
    save.add_argument(
        "--format", choices=("docker", "oci"), default="docker", help="docker: a layout that `docker load` reads too"
    )
    save.add_argument("names", nargs="+", metavar="NAME")
    save.set_defaults(run=command("image_save"))

    load = verbs.add_parser("load", help="take images from an archive", allow_abbrev=False)
    load.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        default="-",
        help="an archive, or the directory of an OCI layout (default: stdin)",
    )
    load.add_argument("--name", action="append", default=[], metavar="NAME", help="only the image of this name")
    load.add_argument("--platform", metavar="OS/ARCH", help="another than this host's")
    load.add_argument("--replace-tags", action="store_true", help="move tags that mean other images here")
    load.set_defaults(run=command("image_load"))

    import_ = verbs.add_parser("import", help="make an image of a root filesystem's archive", allow_abbrev=False)
    import_.add_argument(
        "-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="such as 'CMD [\"sh\"]' or 'ENV A=b'"
    )
    import_.add_argument("--platform", metavar="OS/ARCH", help="another than this host's")
    import_.add_argument("file", metavar="FILE", help="a tar archive, perhaps compressed; - is standard input")
    import_.add_argument("reference", nargs="?", metavar="REFERENCE")
    import_.set_defaults(run=command("image_load", "import_"))


def _names(verbs: Any) -> None:
    tag = verbs.add_parser("tag", help="give an image one more name", allow_abbrev=False)
    tag.add_argument("source", metavar="NAME")
    tag.add_argument("target", metavar="REFERENCE")
    tag.set_defaults(run=command("image_names", "tag"))

    remove = verbs.add_parser("rm", help="take names away, and images that have none left", allow_abbrev=False)
    remove.add_argument("-f", "--force", action="store_true", help="also names that stopped containers use")
    remove.add_argument("names", nargs="+", metavar="NAME")
    remove.set_defaults(run=command("image_names", "remove"))
