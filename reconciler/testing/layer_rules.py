"""What layers come to when they are applied one after the other, on a tree in memory.

The judge of ``store.layers.extract``: the rules of OCI's layer.md and of ours where that is silent, one obvious step
after the other. A tree is what a container would see; ``mine`` marks what the layer that is being applied has itself,
since a whiteout concerns only the layers below it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field

from reconciler.testing.tar_rules import Member, Refused

LEGACY = (b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph")
MOST_LINKS = 40


@dataclass(eq=False)
class Node:
    """Something in the tree. Hard links are one node under several names. ``link`` is a symbolic link's text."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    content: bytes = b""
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    children: dict[bytes, Node] = field(default_factory=dict)
    mine: bool = True


Place = tuple[bytes, ...]


def apply(below: Node | None, members: Iterable[Member]) -> Node:
    """The tree that a layer makes of the one below it, which stays as it is. Raises ``Refused``."""
    root = begin(below)
    for member in members:
        step(root, member)
    return root


def begin(below: Node | None) -> Node:
    """The tree as a new layer finds it."""
    root = copy.deepcopy(below) if below is not None else Node("d")
    disown(root)
    root.mine = True
    return root


def step(root: Node, member: Member) -> None:
    """Applies one entry. Raises ``Refused``; some of it may have been done then."""
    place = parts(member.name)
    if any(part.startswith(b".wh.") for part in place):
        hide(root, place)
    elif member.kind == "d":
        make_directory(root, place, member)
    elif member.kind == "s":
        return
    elif not place:
        raise Refused("the root")
    elif member.kind == "h":
        make_link(root, place, member)
    else:
        check(member)
        parent, _ = walk(root, place[:-1])
        parent.children[place[-1]] = made(member)


def parts(name: bytes) -> Place:
    found: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not found:
                raise Refused("leads out")
            found.pop()
        elif len(part) > 255:
            raise Refused("a long name")
        elif part not in (b"", b"."):
            found.append(part)
    return tuple(found)


def walk(root: Node, place: Place) -> tuple[Node, Place]:
    """The directory at a path, links followed, what is missing made; and its real path."""
    found = look(root, place, make=True)
    assert found is not None
    return found


def look(root: Node, place: Place, *, make: bool = False) -> tuple[Node, Place] | None:
    """The directory at a path, links followed; None where there is none. The real path too."""
    trail: list[tuple[bytes, Node]] = []
    pending = list(place)
    links = 0
    while pending:
        name = pending.pop(0)
        here = trail[-1][1] if trail else root
        if len(name) > 255:
            raise Refused("a long name")
        if name in (b"", b"."):
            continue
        if name == b"..":
            trail = trail[:-1]
            continue
        node = here.children.get(name)
        if node is not None and node.kind == "l":
            links += 1
            if links > MOST_LINKS:
                raise Refused("links")
            if node.link.startswith(b"/"):
                trail = []
            pending = node.link.split(b"/") + pending
            continue
        if node is None or node.kind != "d":
            if not make:
                return None
            if node is not None and node.mine:
                raise Refused("in the way")
            node = here.children[name] = Node("d")
        if make:
            node.mine = True
        trail.append((name, node))
    return (trail[-1][1] if trail else root), tuple(name for name, _ in trail)


def hide(root: Node, place: Place) -> None:
    if any(part in LEGACY for part in place):
        return
    *above, mark = place
    if not mark.startswith(b".wh.") or any(part.startswith(b".wh.") for part in above):
        raise Refused("a whiteout for a directory")
    if mark == b".wh..wh..opq":
        clear(walk(root, tuple(above))[0])
        return
    name = mark[4:]
    if name in (b"", b".", b"..") or name.startswith(b".wh."):
        raise Refused("a whiteout of nothing")
    found = look(root, tuple(above))
    if found is None or name not in found[0].children:
        return
    node = found[0].children[name]
    if not node.mine:
        del found[0].children[name]
    elif node.kind == "d":
        clear(node)


def clear(directory: Node) -> None:
    """Takes away all that is not the layer's own."""
    for name, node in list(directory.children.items()):
        if not node.mine:
            del directory.children[name]
        elif node.kind == "d":
            clear(node)


def disown(node: Node) -> None:
    node.mine = False
    for child in node.children.values():
        disown(child)


def make_directory(root: Node, place: Place, member: Member) -> None:
    if place:
        parent, _ = walk(root, place[:-1])
        node = parent.children.get(place[-1])
        if node is None or node.kind != "d":
            node = parent.children[place[-1]] = Node("d")
    else:
        node = root
    node.mode, node.uid, node.gid, node.mtime = member.mode, member.uid, member.gid, member.mtime
    node.xattrs, node.mine = kept(member), True


def make_link(root: Node, place: Place, member: Member) -> None:
    parent, real = walk(root, place[:-1])
    target = parts(member.link)
    found = look(root, target[:-1]) if target else None
    node = found[0].children.get(target[-1]) if found is not None else None
    if found is None or node is None or not node.mine or node.kind == "d":
        raise Refused("hard link to nothing")
    here, there = (*real, place[-1]), (*found[1], target[-1])
    if there[: len(here)] == here:
        raise Refused("hard link to itself")
    parent.children[place[-1]] = node


def check(member: Member) -> None:
    if member.kind == "l" and not member.link:
        raise Refused("link to nowhere")
    if member.kind in "cb":
        major, minor = member.device
        if not 0 <= major < 1 << 12 or not 0 <= minor < 1 << 20 or (member.kind == "c" and member.device == (0, 0)):
            raise Refused("device")


def made(member: Member) -> Node:
    mode = 0o777 if member.kind == "l" else member.mode
    return Node(
        member.kind,
        mode,
        member.uid,
        member.gid,
        member.mtime,
        kept(member),
        member.content,
        member.link if member.kind == "l" else b"",
        member.device,
    )


def kept(member: Member) -> dict[bytes, bytes]:
    """The extended attributes that the kernel takes and that do not steer overlayfs."""
    found = {}
    for key, value in member.xattrs.items():
        if key.startswith((b"trusted.overlay.", b"user.overlay.")):
            continue
        if key.startswith((b"trusted.", b"security.")) or (key.startswith(b"user.") and member.kind in "fd"):
            found[key] = value
    return found
