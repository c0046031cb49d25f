"""Trees as values that can be compared: one that the layer rules made in memory, and one read from the disk."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from reconciler.testing.layer_rules import Node


class Seen(NamedTuple):
    """All that a program can see of one path. ``names`` are those of the same file, in byte order."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    content: bytes
    device: tuple[int, int]
    names: tuple[bytes, ...]


Tree = dict[bytes, Seen]

_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
}


def expected(root: Node) -> Tree:
    """The tree that the rules made."""
    nodes: dict[bytes, Node] = {}
    pending = [(b"", root)]
    while pending:
        path, node = pending.pop()
        nodes[path] = node
        pending += [(path + b"/" + name, child) for name, child in node.children.items()]
    names: dict[int, list[bytes]] = {}
    for path, node in nodes.items():
        names.setdefault(id(node), []).append(path)
    return {
        path: Seen(
            node.kind,
            node.mode,
            node.uid,
            node.gid,
            node.mtime,
            tuple(sorted(node.xattrs.items())),
            node.content or node.link,
            node.device if node.kind in "cb" else (0, 0),
            tuple(sorted(names[id(node)])),
        )
        for path, node in nodes.items()
    }


def found(root: bytes) -> Tree:
    """The tree below a directory, without what overlayfs keeps in it for itself."""
    statuses: dict[bytes, os.stat_result] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        statuses[path] = os.lstat(root + path)
        if stat.S_ISDIR(statuses[path].st_mode):
            pending += [path + b"/" + name for name in os.listdir(root + path)]  # noqa: PTH208 - names are bytes
    names: dict[int, list[bytes]] = {}
    for path, status in statuses.items():
        names.setdefault(status.st_ino, []).append(path)
    return {path: _seen(root + path, status, tuple(sorted(names[status.st_ino]))) for path, status in statuses.items()}


def _seen(path: bytes, status: os.stat_result, names: tuple[bytes, ...]) -> Seen:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    content = b""
    if kind == "f":
        with open(path, "rb") as file:  # noqa: PTH123
            content = file.read()
    elif kind == "l":
        content = os.readlink(path)  # noqa: PTH115
    keys = sorted(os.fsencode(key) for key in os.listxattr(path, follow_symlinks=False))
    return Seen(
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        tuple(
            (key, os.getxattr(path, key, follow_symlinks=False))
            for key in keys
            if not key.startswith(b"trusted.overlay.")
        ),
        content,
        (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in "cb" else (0, 0),
        names,
    )
