"""Images and tags: the entries of `images`, the references that become implicit entries, and names to addresses."""

from __future__ import annotations

from reconciler.errors import InvalidError, ReconcilerError
from reconciler.model.address import Address, in_stack
from reconciler.model.desired import Location
from reconciler.model.resources import (
    Commit,
    ConfigChanges,
    FileContent,
    Image,
    Import,
    Load,
    Pull,
    PullPolicy,
    Tag,
)
from reconciler.model.selection import TagSelection
from reconciler.oci.archives import HEAD, Use, check_archive
from reconciler.oci.reference import Reference
from reconciler.spec import schema
from reconciler.spec.build import Build, pairs
from reconciler.spec.errors import shown
from reconciler.spec.nearest import nearest
from reconciler.spec.scalars import Tainted
from reconciler.spec.stacks import Entry, Stack

_SOURCES = ("pull", "import", "load", "commit")
# Which fields belong to which source.
_ONLY_WITH = {
    "pull_policy": ("pull",),
    "track": ("pull",),
    "platform": ("pull", "import"),
    "config": ("import", "commit"),
}


def build_images(build: Build, stack: Stack) -> None:
    """The declared images, before containers and tags look them up."""
    for name, entry in stack.sections["images"].items():
        address = in_stack("image", stack.name, name)
        source = _source(build, stack, entry)
        if source is not None:
            build.put(address, Image(source), stack.name, entry.location)


def build_tags(build: Build, stack: Stack) -> None:
    """Tags; what they point at may be an entry or a reference."""
    for text, entry in stack.sections["tags"].items():
        model: schema.Tag = entry.model
        image = resolve_image(build, stack, model.image, entry.at("image"))
        if image is None:
            continue
        reference = Reference.parse(text)
        address = Address("tag", str(reference))
        if address in build.resources:
            build.problems.add(
                entry.location,
                f"{address} is declared twice; first at {build.locations[address]}",
                "a tag belongs to one stack and points at one image: keep one",
            )
            continue
        rule = model.push.overwrite if model.push else None
        build.put(address, Tag(reference, image, rule), stack.name, entry.location)


def resolve_image(
    build: Build, stack: Stack, text: str, location: Location, policy: PullPolicy | None = None
) -> Address | None:
    """The address of what ``image:`` names: an entry, else a reference, which becomes an entry of its own.

    ``policy`` is what a container asks for; None leaves an entry's own. None is given after adding a problem.
    """
    entry = stack.sections["images"].get(text)
    if entry is not None:
        address = in_stack("image", stack.name, text)
        own = entry.model.pull_policy if entry.model.pull is not None else "never pulled"
        if policy is not None and policy != own:
            build.problems.add(
                location,
                f"pull_policy {policy} differs from that of image {text} ({own}) at {entry.location}",
                "set pull_policy on the entry in images",
            )
        return address
    if stack.declares("images", text):
        return in_stack("image", stack.name, text)
    if (guess := _meant(build, stack, text)) is not None:
        build.problems.add(
            location,
            f"no image {shown(text)} in images",
            f"did you mean {guess}? For an image of that name on Docker Hub write {shown(text)[1:-1]}:latest",
        )
        return None
    try:
        reference = Reference.parse(text)
    except InvalidError as error:
        build.problems.add(location, str(error), error.hint)
        return None
    address = in_stack("image", stack.name, reference.familiar)
    present = build.resources.get(address)
    if policy is None and present is not None:
        return address
    build.put(address, Image(Pull(reference, policy or "missing")), stack.name, location)
    return address


def _meant(build: Build, stack: Stack, text: str) -> str | None:
    """The entry of ``images`` that a text without ``/``, ``:`` and ``@`` almost names."""
    if not build.problems.names_known or any(character in text for character in "/:@"):
        return None
    return nearest(text, stack.names("images"))


def _source(build: Build, stack: Stack, entry: Entry) -> Pull | Import | Load | Commit | None:
    model: schema.Image = entry.model
    given = {"import_" if name == "import" else name: name for name in _SOURCES}
    used = [name for attribute, name in given.items() if getattr(model, attribute) is not None]
    if len(used) != 1:
        found = f"both {' and '.join(used)}" if used else "none of them"
        build.problems.add(entry.location, f"an image takes one of {', '.join(_SOURCES)}; found {found}", "give one")
        return None
    for name, allowed in _ONLY_WITH.items():
        if name in model.model_fields_set and used[0] not in allowed:
            build.problems.add(
                entry.at(name, key=True),
                f"{name} has no meaning with {used[0]}",
                f"it goes with {' or '.join(allowed)}",
            )
    if model.pull is not None:
        return _pull(build, model, entry)
    if model.commit is not None:
        return _commit(build, stack, model.commit, entry)
    return _archive(build, model, entry)


def _pull(build: Build, model: schema.Image, entry: Entry) -> Pull | None:
    assert model.pull is not None
    reference = Reference.parse(model.pull)
    if model.track is None:
        return Pull(reference, model.pull_policy, model.platform)
    track = model.track
    if track.semver is None and track.pattern is None and track.newest is None:
        build.problems.add(
            entry.at("track", key=True), "track does not say which tag", "give semver, pattern, or newest: 1"
        )
    if reference.digest is None and names_tag(model.pull):
        build.problems.add(
            entry.at("pull"),
            "track picks the tag, and pull names one",
            f"write pull: {reference.repository_only().familiar}; or pin it as NAME:TAG@DIGEST, as "
            "`reconciler update --write` does",
        )
        return None
    selection = TagSelection(
        allow=(track.pattern,) if track.pattern else (),
        semver=track.semver or "",
        newest=track.newest,
        min_age=track.min_age,
    )
    pinned = reference.digest is not None
    return Pull(reference if pinned else reference.repository_only(), model.pull_policy, model.platform, selection)


def names_tag(text: str) -> bool:
    """Whether a reference says its tag, which is not the same as having one."""
    tag = Reference.parse(text).tag
    return tag is not None and text.partition("@")[0].endswith(f":{tag}")


def _archive(build: Build, model: schema.Image, entry: Entry) -> Import | Load | None:
    if model.import_ is not None:
        archive = _content(build, entry, ("import",), model.import_, "import")
        return Import(archive, _config(build, entry), model.platform) if archive else None
    assert model.load is not None
    archive = _content(build, entry, ("load", "file"), model.load.file, "load")
    return Load(archive, model.load.ref) if archive else None


def _commit(build: Build, stack: Stack, commit: schema.Commit, entry: Entry) -> Commit | None:
    if not stack.declares("containers", commit.container):
        build.miss(stack, "containers", commit.container, entry.at("commit", "container"))
        return None
    container = in_stack("container", stack.name, commit.container)
    return Commit(container, commit.author, commit.message, commit.when, _config(build, entry))


def _config(build: Build, entry: Entry) -> ConfigChanges:
    config: schema.ConfigChanges | None = entry.model.config
    if config is None:
        return ConfigChanges()
    for name, value in config.environment.items():
        if isinstance(value, Tainted):
            build.problems.add(
                entry.at("config", "environment", name),
                f"{shown(name)}: an image's config cannot keep a secret, and the variable here is sensitive",
                "pass it with --var, or give it to the container instead",
            )
    return ConfigChanges(
        config.cmd,
        config.entrypoint,
        pairs(config.environment),
        config.user,
        config.working_dir,
        config.stop_signal,
        pairs(config.labels),
        tuple(sorted(config.exposed_ports)),
        tuple(sorted(config.volumes)),
    )


def _content(build: Build, entry: Entry, path: tuple[str, ...], file: str, use: Use) -> FileContent | None:
    tree = build.source(entry, path, file)
    if tree is None:
        return None
    try:
        return tree.content(
            entry.document.file.directory, file, lambda head: check_archive(head[:HEAD], shown(file), use)
        )
    except ReconcilerError as error:
        build.problems.add(entry.at(*path), str(error), error.hint)
        return None
