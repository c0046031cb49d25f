"""What containers read from files: environment files, secrets and configs."""

from __future__ import annotations

import posixpath
import re

from reconciler.errors import NotFoundError, ReconcilerError
from reconciler.model.resources import FileMount, Sensitive, Text
from reconciler.spec import schema
from reconciler.spec import schema_container as container_schema
from reconciler.spec.build import Build
from reconciler.spec.dotenv import MAX_BYTES, parse_dotenv
from reconciler.spec.errors import shown
from reconciler.spec.scalars import Tainted
from reconciler.spec.stacks import Entry, Stack
from reconciler.spec.tree import read_secret

MAX_FILE = 1024 * 1024
SECRET_DIRECTORY = "/run/secrets"

_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\bglpat-[A-Za-z0-9_-]{20}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10}|\bsk-[A-Za-z0-9_-]{20}|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\."
)
_KEY_NAME = re.compile(r"(?:^|_)(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|PRIVATE_KEY|ACCESS_KEY)$", re.IGNORECASE)


def environment(build: Build, entry: Entry) -> tuple[tuple[str, Text], ...]:
    """The variables of a container, sorted by name: its files in order, then ``environment``."""
    model: container_schema.Container = entry.model
    found: dict[str, Text] = {}
    for index, file in enumerate(model.env_file):
        found |= _env_file(build, entry, index, file)
    for name, value in model.environment.items():
        if isinstance(value, Tainted):
            found[name] = Sensitive(str(value))
            continue
        found[name] = str(value)
        if value and (_KEY.search(value) or (_KEY_NAME.search(name) and not value.startswith("/"))):
            where = entry.at("environment", name)
            build.warnings.add(
                f"{where}: the value of {shown(name)[1:-1]} looks like a secret; pass it with --env, or use `secrets:`"
            )
    return tuple(sorted(found.items()))


def _env_file(build: Build, entry: Entry, index: int, file: container_schema.EnvFile) -> dict[str, Text]:
    tree = build.source(entry, ("env_file", index), file.path)
    if tree is None:
        return {}
    try:
        data = tree.read(entry.document.file.directory, file.path, MAX_BYTES)
    except NotFoundError as error:
        if file.required:
            build.problems.add(entry.at("env_file", index), f"env_file: {error}", error.hint)
        return {}
    except ReconcilerError as error:
        build.problems.add(entry.at("env_file", index), f"env_file: {error}", error.hint)
        return {}
    return dict(parse_dotenv(posixpath.join(entry.document.file.directory, file.path), data, build.problems))


def file_mounts(build: Build, stack: Stack, entry: Entry) -> tuple[tuple[FileMount, ...], tuple[FileMount, ...]]:
    """The secrets and the configs of a container as files, each sorted by target."""
    model: container_schema.Container = entry.model
    return (
        _uses(build, stack, entry, "secrets", model.secrets, SECRET_DIRECTORY, 0o400),
        _uses(build, stack, entry, "configs", model.configs, "/", 0o444),
    )


def _uses(
    build: Build,
    stack: Stack,
    entry: Entry,
    section: str,
    uses: tuple[container_schema.FileUse, ...],
    directory: str,
    mode: int,
) -> tuple[FileMount, ...]:
    found = []
    for index, use in enumerate(uses):
        if not stack.declares(section, use.source):
            build.miss(stack, section, use.source, entry.at(section, index), section)
            continue
        target = posixpath.normpath(posixpath.join(directory, use.target or use.source))
        if ".." in (use.target or "").split("/"):
            build.problems.add(entry.at(section, index), f"{section}: the target holds ..", "write it without ..")
        content = build.contents.get((section, stack.name, use.source), "")
        found.append(FileMount(use.source, target, content, mode if use.mode is None else use.mode, use.uid, use.gid))
    return tuple(sorted(found, key=lambda mount: mount.target))


def read_contents(build: Build, stack: Stack) -> None:
    """Reads every secret and config of a stack once, before its containers are built."""
    for name, entry in stack.sections["secrets"].items():
        build.note_unsupported(f"secret/{stack.name}/{name}", entry)
        build.contents["secrets", stack.name, name] = _secret(build, entry)
    for name, entry in stack.sections["configs"].items():
        build.note_unsupported(f"config/{stack.name}/{name}", entry)
        build.contents["configs", stack.name, name] = _config(build, entry)


def _secret(build: Build, entry: Entry) -> Sensitive:
    model: schema.Secret = entry.model
    if (model.file is None) == (model.environment is None):
        if not any(entry.model.unsupported()):
            build.problems.add(entry.location, "a secret takes one of file and environment", "give one")
        return Sensitive("")
    if not build.secrets:
        return Sensitive("")
    if model.environment is not None:
        value = build.environment.get(model.environment)
        if value is None:
            hint = f"pass --env {model.environment}, and set the variable"
            build.problems.add(
                entry.at("environment"), f"environment: variable {shown(model.environment)} is not given", hint
            )
        return Sensitive(value or "")
    assert model.file is not None
    try:
        data, warning = read_secret(build.tree, entry.document.file.directory, model.file, MAX_FILE)
    except ReconcilerError as error:
        build.problems.add(entry.at("file"), f"file: {error}", error.hint)
        return Sensitive("")
    if warning:
        build.warnings.add(f"{entry.at('file')}: {warning}")
    return Sensitive(data.decode("utf-8", "surrogateescape"))


def _config(build: Build, entry: Entry) -> Text:
    model: schema.Config = entry.model
    if (model.file is None) == (model.content is None):
        if not any(entry.model.unsupported()):
            build.problems.add(entry.location, "a config takes one of content and file", "give one")
        return ""
    if model.content is not None:
        return Sensitive(str(model.content)) if isinstance(model.content, Tainted) else str(model.content)
    assert model.file is not None
    tree = build.source(entry, ("file",), model.file)
    if tree is None:
        return ""
    try:
        data = tree.read(entry.document.file.directory, model.file, MAX_FILE)
    except ReconcilerError as error:
        build.problems.add(entry.at("file"), f"file: {error}", error.hint)
        return ""
    return data.decode("utf-8", "surrogateescape")
