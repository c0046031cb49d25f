"""Image configs that we write: imports, commits, and the changes a spec asks for. Pure."""

from __future__ import annotations

import copy
import posixpath
from typing import Any

from reconciler.model.resources import ConfigChanges
from reconciler.oci.config import History, encode_config
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform


def new_config(changes: ConfigChanges, platform: Platform, diff_id: Digest) -> bytes:
    """The config of an imported archive. It has no date: the same archive and config are the same image."""
    document: dict[str, Any] = {
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [History(created_by="import", comment="imported from an archive").to_json()],
    }
    if platform.variant:
        document["variant"] = platform.variant
    return changed_config(document, changes)


def commit_config(
    base: dict[str, Any],
    diff_id: Digest | None,
    *,
    author: str,
    message: str,
    created: str,
    command: str,
    base_config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The base's config with one more history entry, and one more layer unless ``diff_id`` is None.

    Fields that we do not know are carried along. ``base_config`` replaces the base's ``config`` object.
    """
    document = copy.deepcopy(base)
    document["created"] = created
    document.pop("author", None)
    if author:
        document["author"] = author
    if base_config is not None:
        document["config"] = copy.deepcopy(base_config)
    entry = History(created, command, author, message, empty_layer=diff_id is None)
    document["history"] = [*(document.get("history") or []), entry.to_json()]
    if diff_id is not None:
        rootfs = document["rootfs"]
        rootfs["diff_ids"] = [*(rootfs.get("diff_ids") or []), diff_id]
    return document


def changed_config(document: dict[str, Any], changes: ConfigChanges) -> bytes:
    """``document`` with ``changes`` applied, as the bytes of a config blob.

    An empty command or entrypoint takes the base's away. A relative working directory is below the base's.
    """
    document = copy.deepcopy(document)
    config: dict[str, Any] = document.get("config") or {}
    document["config"] = config
    replaced = {
        "Entrypoint": changes.entrypoint,
        "Cmd": changes.cmd,
        "User": changes.user,
        "WorkingDir": changes.working_dir and posixpath.join("/", config.get("WorkingDir") or "", changes.working_dir),
        "StopSignal": changes.stop_signal,
    }
    for key, value in replaced.items():
        if value == ():
            config.pop(key, None)
        elif value is not None:
            config[key] = list(value) if isinstance(value, tuple) else value
    if changes.environment:
        config["Env"] = _environment(config.get("Env") or [], changes)
    if changes.labels:
        config["Labels"] = {**(config.get("Labels") or {}), **dict(changes.labels)}
    ports = [port if "/" in port else f"{port}/tcp" for port in changes.exposed_ports]
    for key, names in (("ExposedPorts", ports), ("Volumes", changes.volumes)):
        if names:
            config[key] = {**(config.get(key) or {}), **{name: {} for name in names}}
    return encode_config(document)


def _environment(base: list[str], changes: ConfigChanges) -> list[str]:
    values = {entry.partition("=")[0]: entry for entry in base}
    values.update({name: f"{name}={value}" for name, value in changes.environment})
    return list(values.values())
