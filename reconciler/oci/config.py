"""Image configs (OCI image-spec, config.md).

``ImageConfig`` reads what running and listing need. A commit writes a new document from the old one's JSON, so
fields that this reader does not know are carried along.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from reconciler.errors import InvalidError
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform

MAX_CONFIG_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class History:
    """One step of how the image came to be; an empty layer has no diff ID of its own."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    def to_json(self) -> dict[str, Any]:
        pairs = {
            "created": self.created,
            "created_by": self.created_by,
            "author": self.author,
            "comment": self.comment,
        }
        document: dict[str, Any] = {key: text for key, text in pairs.items() if text}
        if self.empty_layer:
            document["empty_layer"] = True
        return document


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of itself. ``raw`` is the whole document, read-only by convention."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    created: str
    author: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: tuple[str, ...]
    user: str
    working_dir: str
    stop_signal: str
    labels: dict[str, str]
    volumes: tuple[str, ...]
    exposed_ports: tuple[str, ...]
    history: tuple[History, ...]
    raw: dict[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """Reads a config blob. Raises ``InvalidError`` naming the field at fault."""
        if len(data) > MAX_CONFIG_BYTES:
            raise InvalidError(f"image config has {len(data)} bytes, more than the {MAX_CONFIG_BYTES} allowed")
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidError(f"image config is not JSON: {error}") from None
        if not isinstance(raw, dict):
            raise InvalidError("image config is not a JSON object")
        inner = raw.get("config") or {}
        if not isinstance(inner, dict):
            raise InvalidError("image config field 'config' is not an object")
        return cls(
            platform=Platform.normal(
                _text(raw, "os") or "linux", _text(raw, "architecture") or "unknown", _text(raw, "variant")
            ),
            diff_ids=_diff_ids(raw),
            created=_text(raw, "created"),
            author=_text(raw, "author"),
            entrypoint=_strings(inner, "Entrypoint"),
            cmd=_strings(inner, "Cmd"),
            env=_strings(inner, "Env"),
            user=_text(inner, "User"),
            working_dir=_text(inner, "WorkingDir"),
            stop_signal=_text(inner, "StopSignal"),
            labels={key: str(value) for key, value in _object(inner, "Labels").items()},
            volumes=tuple(sorted(_object(inner, "Volumes"))),
            exposed_ports=tuple(sorted(_object(inner, "ExposedPorts"))),
            history=_history(raw),
            raw=raw,
        )


def encode_config(document: dict[str, Any]) -> bytes:
    """The canonical bytes of a config document that we write: compact, keys sorted."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidError(f"image config field {key!r} is not text")
    return value


def _strings(document: dict[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    if value is None:
        return ()
    if isinstance(value, str):  # Docker wrote a bare string in old images
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidError(f"image config field {key!r} is not a list of text")
    return tuple(value)


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidError(f"image config field {key!r} is not an object")
    return value


def _diff_ids(raw: dict[str, Any]) -> tuple[Digest, ...]:
    rootfs = raw.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        raise InvalidError("image config field 'rootfs.type' is not 'layers'")
    return tuple(Digest(text) for text in _strings(rootfs, "diff_ids"))


def _history(raw: dict[str, Any]) -> tuple[History, ...]:
    entries = raw.get("history") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidError("image config field 'history' is not a list of objects")
    return tuple(
        History(
            created=_text(entry, "created"),
            created_by=_text(entry, "created_by"),
            author=_text(entry, "author"),
            comment=_text(entry, "comment"),
            empty_layer=entry.get("empty_layer") is True,
        )
        for entry in entries
    )
