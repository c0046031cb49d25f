"""An unpack comes to the same wherever it is started from (case U65): locale, time zone, descriptors, umask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.testing import archives, trees
from reconciler.testing.archives import END, pax
from reconciler.testing.host import Host

pytestmark = pytest.mark.root

BASE = b"".join(
    (
        archives.directory(b"./", 0o751, mtime=11),
        archives.directory(b"tmp", 0o1777, uid=3, gid=4, mtime=5),
        archives.file("héllo wörld ☃".encode(), b"utf-8", mode=0o604, mtime=1_700_000_000),
        archives.file(b"\xff\xfe not utf-8 \n", b"bytes", mode=0o4755, uid=2**31, gid=2**32 - 2),
        pax((b"mtime", b"-1.123456789"), (b"SCHILY.xattr.user.k\xff", b"\0\xff\n")) + archives.file(b"x", b"y" * 5000),
        *(archives.file(b"deep/%d/%d/f" % (number % 7, number), b"%d" % number) for number in range(150)),
        archives.symlink(b"link", "zu/ä".encode()),
        archives.header(b"fifo", b"6", mode=0o666),
        archives.header(b"null", b"3", mode=0o666, major=1, minor=3),
        archives.pax_sparse(b"sparse", 1 << 20, [(4096, b"s" * 100)], "1.0"),
        END,
    )
)
SHELL = ("sh", "-c")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
STARTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "ASCII and a time zone": ((), ASCII | {"TZ": "Pacific/Kiritimati"}),
    "nonsense": ((), {"LC_ALL": "xx_YY.ISO-8859-1", "LANG": "xx", "LANGUAGE": "tlh", "TZ": ":/nonsense"}),
    "few descriptors": ((*SHELL, 'ulimit -Sn 40; exec "$@"', "sh"), {}),
    "few descriptors for good": ((*SHELL, 'ulimit -n 100; ulimit -s 512; ulimit -c 0; exec "$@"', "sh"), {}),
    "no stdin": ((*SHELL, 'umask 0; trap "" PIPE CHLD; exec "$@" <&-', "sh"), {}),
    "no stdin, stdout and stderr": ((*SHELL, 'umask 0777; cd /proc/self/fd; exec "$@" <&- >&- 2>&-', "sh"), ASCII),
}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> trees.Tree:
    return unpacked(tmp_path_factory.mktemp("wanted"))


def unpacked(place: Path, under: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> trees.Tree:
    """Imports the archive by the command line, in a root of its own; what is then on disk."""
    host = Host(place, environment=environment or {})
    try:
        (place / "root").mkdir(0o700)
        (host.root / "host.yaml").write_text("labels: {wo: höhle}\n", encoding="utf-8")
        (host.specs / "rootfs.tar").write_bytes(BASE)
        spec = "apiVersion: reconciler/v1\nstack: shop\nhosts: {wo: höhle}\nimages: {base: {import: ./rootfs.tar}}\n"
        (host.specs / "shop.yaml").write_text(spec, encoding="utf-8")
        host.run("apply", host.specs, "--yes", under=under)
        (layer,) = [path for path in (host.root / "layers").iterdir() if path.is_dir()]
        assert (host.root / "state.db").stat().st_mode & 0o777 == 0o600
        return trees.found(os.fsencode(layer))
    finally:
        host.close()


@pytest.mark.parametrize("start", STARTS)
def test_u65_what_is_inherited_makes_no_difference(tmp_path: Path, wanted: trees.Tree, start: str) -> None:
    assert len(wanted) > 150
    found = unpacked(tmp_path, *STARTS[start])
    for path in sorted(wanted.keys() | found.keys()):
        assert found.get(path) == wanted.get(path)
