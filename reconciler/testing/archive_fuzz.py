"""Random layers: sequences of archives that know what archives are, and then are bent out of shape.

Everything comes from one seed, so that a case can be made again. Names are few, so that entries meet: the same path as
a directory, a link, a whiteout, a hard link's target. About half of the archives get mutations afterwards, of whole
entries, of header fields with the checksum put right, or of any byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from reconciler.testing import archives, layer_rules, tar_rules
from reconciler.testing.archives import BLOCK, END

NAMES = [b"a", b"b", b"c", b"d", b"e", b"\xff\n", b"back\\slash ", b"..."]
ODD_WHITEOUTS = [b".wh.", b".wh..", b".wh...", b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.other", b".wh..wh..opq"]
OWNERS = [0, 0, 0, 1, 1000, 65534, 2**21, 2**31 - 1, 2**32 - 2]
TIMES = [b"0", b"1", b"1700000000.123456789", b"-1.5", b"-2147483648", b"15032385535", b"1e300", b"nan", b"0.1"]
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
XATTRS = [
    (b"user.k", b"v\0\n"),
    (b"user.empty", b""),
    (b"trusted.t", b"x" * 100),
    (b"trusted.overlay.opaque", b"y"),
    (b"trusted.overlay.redirect", b"/etc"),
    (b"trusted.overlay.metacopy", b""),
    (b"user.overlay.opaque", b"y"),
    (b"nonsense.k", b"v"),
]
FLAGS = [bytes([flag]) for flag in b"\x000123456789xgLKSsDMNV"]
NUMBERS: list[archives.Number] = [
    -1,
    0,
    1,
    511,
    512,
    513,
    2**32 - 2,
    2**32 - 1,
    2**33,
    2**63 - 1,
    2**63,
    b"        ",
    b"99999999999",
    b"\0" * 12,
]
FIELDS = {"mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12), "major": (329, 8)}


def layers(seed: int, outside: bytes) -> list[bytes]:
    """One to three archives, lowest layer first. ``outside`` is a path that links may try to reach."""
    random = Random(seed)
    made = []
    tree: layer_rules.Node | None = None
    for number in range(random.choice((1, 1, 2, 2, 3))):
        tree = layer_rules.begin(tree)
        chunks = [_chunk(random, outside, whiteouts=30 if number else 6) for _ in range(random.randint(2, 16))]
        # One wrong entry is enough for a whole layer to be refused: most of those are left out.
        chunks = [chunk for chunk in chunks if _is_right(tree, chunk) or _one_in(random, 40)] or [b""]
        end = random.choice((END, END, END, b"", bytes(BLOCK), END + b"trailing"))
        made.append(_mutated(random, chunks, end) if random.random() < 0.3 else b"".join(chunks) + end)
    return made


def _is_right(tree: layer_rules.Node, chunk: bytes) -> bool:
    try:
        for member in tar_rules.members(chunk):
            layer_rules.step(tree, member)
    except tar_rules.Refused:
        return False
    return True


def _chunk(random: Random, outside: bytes, whiteouts: int) -> bytes:
    kinds: list[tuple[int, Callable[[], bytes]]] = [
        (28, lambda: _entry(random, b"0", _content(random))),
        (22, lambda: _entry(random, b"5", b"")),
        (14, lambda: _entry(random, b"2", b"", link=_target(random, outside))),
        (12, lambda: _entry(random, b"1", b"", link=_target(random, outside) if _one_in(random, 8) else _path(random))),
        (whiteouts, lambda: _entry(random, b"0", b"", name=_whiteout(random))),
        (4, lambda: _entry(random, random.choice((b"5", b"2", b"6")), b"", name=_whiteout(random), link=b"a")),
        (3, lambda: _entry(random, b"6", b"")),
        (3, lambda: _entry(random, random.choice((b"3", b"4")), b"", device=_device(random))),
        (1, lambda: _entry(random, b"s", b"")),
        (5, lambda: _sparse(random)),
        (1, lambda: archives.pax((random.choice((b"uid", b"mtime", b"comment")), b"7"), flag=b"g")),
        (1, lambda: random.randbytes(BLOCK)),
    ]
    return random.choices([make for _, make in kinds], [weight for weight, _ in kinds])[0]()


def _content(random: Random) -> bytes:
    return random.randbytes(random.choice((0, 1, 5, 511, 512, 513, 2000)))


def _one_in(random: Random, count: int) -> bool:
    return random.randrange(count) == 0


def _path(random: Random) -> bytes:
    parts = [
        random.choice(NAMES[: random.choice((3, 3, len(NAMES)))]) for _ in range(random.choice((1, 1, 2, 2, 3, 4)))
    ]
    path = b"/".join(parts)
    if _one_in(random, 5):
        at = random.randrange(len(parts) + 1)
        path = b"/".join([*parts[:at], random.choice((b".", b"..", b"", b"a/..")), *parts[at:]])
    if _one_in(random, 8):
        path = random.choice((b"./", b"/", b"//", b"../")) + path
    if _one_in(random, 40):
        long = random.choice((90, 150, 255, 256))
        path = random.choice((b".", b"./", b"/", b"..", b"l" * long + b"/" + path, path + b"/" + b"l" * long))
    return path


def _target(random: Random, outside: bytes) -> bytes:
    """Of a link: mostly something inside, now and then an attempt to leave."""
    return random.choice(
        [
            _path(random),
            _path(random),
            b"/" + _path(random),
            b"../" + _path(random),
            b"..",
            b"/",
            b".",
            outside,
            outside + b"/secret",
            b"../" * random.randint(1, 6) + outside.rpartition(b"/")[2] + b"/secret",
        ]
    )


def _whiteout(random: Random) -> bytes:
    name = random.choice(ODD_WHITEOUTS) if _one_in(random, 6) else b".wh." + random.choice(NAMES[:4])
    if _one_in(random, 4):
        name = b".wh..wh..opq"
    above = b"/".join(random.choice(NAMES[:3]) for _ in range(random.choice((0, 0, 1, 1, 2))))
    return (above + b"/" + name if above else name) + (b"/x" if _one_in(random, 40) else b"")


def _device(random: Random) -> tuple[int, int]:
    return random.choice(((1, 3), (8, 0), (4095, 2**20 - 1), (0, 0), (4096, 0), (0, 2**20), (-1, 0), (2**40, 1)))


def _entry(
    random: Random,
    flag: bytes,
    content: bytes,
    *,
    name: bytes = b"",
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """One entry, with its name, link, owner, time and attributes in one of the forms that they can have."""
    name = name or _path(random)
    if flag == b"5" and _one_in(random, 2):
        name += b"/"
    records: list[tuple[bytes, bytes]] = []
    before = b""
    fields: dict[str, archives.Number] = {"uid": random.choice(OWNERS), "gid": random.choice(OWNERS)}
    magic = random.choice((archives.USTAR, archives.USTAR, archives.GNU, archives.V7))
    records += [(key, b"%d" % random.choice(OWNERS)) for key in (b"uid", b"gid") if _one_in(random, 6)]
    if _one_in(random, 3):
        records.append((b"mtime", random.choice(TIMES)))
    if _one_in(random, 5):
        records += random.sample(XATTRS, random.randint(1, 4))
        records = [(b"SCHILY.xattr." + key if b"." in key else key, value) for key, value in records]
    if flag == b"0" and _one_in(random, 10):
        records.append((b"SCHILY.xattr.security.capability", CAPABILITY))
    size = len(content)
    if content and _one_in(random, 10):
        records.append((b"size", b"%d" % size))
        size = random.choice((0, 3, size, 8**11 - 1))
    prefix = b"garbage" if magic != archives.USTAR and _one_in(random, 6) else b""
    for long, flag_of_long, record in ((name, b"L", b"path"), (link, b"K", b"linkpath")):
        form = random.choice(("short", "short", "pax", "gnu", "prefix"))
        if form == "pax" or (len(long) > 100 and form != "gnu"):
            records.append((record, long))
        elif form == "gnu":
            before += archives.extended(long + random.choice((b"", b"\0")), flag_of_long)
        elif form == "prefix" and record == b"path" and magic == archives.USTAR and b"/" in long.strip(b"/"):
            cut = long.index(b"/", 1)
            if long[:cut] and long[cut + 1 :]:
                prefix, name = long[:cut], long[cut + 1 :]
    if records:
        header = archives.pax(*records)
        before = header + before if _one_in(random, 2) else before + header
    block = archives.header(
        name,
        flag,
        mode=random.choice((0o644, 0o755, 0, 0o4755, 0o1777, 0o2770, random.randrange(0o10000))),
        size=size,
        mtime=random.choice((0, 1, 1700000000, -1, 2**33)),
        link=link,
        magic=magic,
        major=device[0],
        minor=device[1],
        prefix=prefix,
        **fields,  # type: ignore[arg-type]
    )
    return before + block + archives.body(content)


def _sparse(random: Random) -> bytes:
    pieces: list[archives.Piece] = []
    at = 0
    for _ in range(random.choice((0, 1, 2, 6, 30))):
        at += random.choice((0, 1, 512, 4096))
        pieces.append((at, random.randbytes(random.choice((0, 1, 300, 512)))))
        at += len(pieces[-1][1])
    if pieces and _one_in(random, 8):
        random.shuffle(pieces)
    size = at + random.choice((0, 0, 1, 5000, -1 if at else 0, 2**21 if _one_in(random, 10) else 0))
    name = _path(random)[:90] or b"a"
    form = random.choice(("old", "0.0", "0.1", "1.0"))
    if form == "old":
        return archives.old_sparse(name, size, pieces)
    return archives.pax_sparse(name, size, pieces, form)


def _mutated(random: Random, chunks: list[bytes], end: bytes) -> bytes:
    for _ in range(random.choice((0, 0, 1, 2))):
        at, other = random.randrange(len(chunks)), random.choice(chunks)
        match random.randrange(4):
            case 0:
                chunks.insert(at, other)
            case 1:
                chunks.insert(at, bytes(BLOCK))
            case 2:
                chunks.append(chunks.pop(at))
            case _:
                chunks[at] = other
    data = bytearray(b"".join(chunks) + end)
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        _mutate(random, data)
    if _one_in(random, 6):
        del data[random.randrange(len(data) + 1) :]
    return bytes(data)


def _mutate(random: Random, data: bytearray) -> None:
    """Changes a byte, or a field of what may be a header (with the checksum put right, mostly)."""
    if not data:
        return
    if _one_in(random, 3):
        data[random.randrange(len(data))] = random.choice((0, 0xFF, 0x80, ord("0"), ord("/"), random.randrange(256)))
        return
    start = random.randrange(len(data) // BLOCK or 1) * BLOCK
    block = bytearray(data[start : start + BLOCK])
    if len(block) < BLOCK:
        return
    choice = random.randrange(4)
    if choice == 0:
        block[156:157] = random.choice(FLAGS)
    elif choice == 1:
        at, width = random.choice(list(FIELDS.values()))
        block[at : at + width] = archives.number(random.choice(NUMBERS), width)
    elif choice == 2:
        block[random.randrange(BLOCK)] = random.randrange(256)
    else:
        block[:100] = _path(random)[:100].ljust(100, b"\0")
    data[start : start + BLOCK] = archives.checked(bytes(block)) if random.random() < 0.9 else block
