"""What a filesystem must be able to do to hold a store, tried before anything is put on it.

A root on the wrong filesystem would fail at the first pull at best; at worst it would lose capabilities or whiteouts
without a word.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from reconciler.errors import HostError
from reconciler.linux import durable
from reconciler.store.emptying import empty_directory
from reconciler.store.layers import whiteout

_PLACE = ".probe"
_FLAGS = {
    os.ST_RDONLY: ("ro", "nothing can be stored", "rw"),
    os.ST_NOEXEC: ("noexec", "no program of an image would run", "exec"),
    os.ST_NOSUID: ("nosuid", "setuid programs and capabilities of images would not work", "suid"),
    os.ST_NODEV: ("nodev", "devices of images would not work", "dev"),
}
_REMEDY = "put the root on ext4, XFS (ftype=1) or Btrfs: give another directory as --root"
# linux/capability.h: revision 2, effective, CAP_NET_RAW.
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def check_mount(root: Path) -> None:
    """Raises ``HostError`` when ``root`` is on a mount that is read-only, noexec, nosuid or nodev. One system call."""
    with durable.guarded("use", root):
        flags = os.statvfs(root).f_flag
    for flag, (option, consequence, opposite) in _FLAGS.items():
        if flags & flag:
            raise HostError(
                f"{root} is on a filesystem that is mounted {option}: {consequence}",
                hint=f"mount it read-write and with {opposite} (mount -o remount,{opposite}), or use another --root",
            )


def check_filesystem(root: Path) -> None:
    """Tries in ``root`` what layers need, and leaves nothing behind. The caller holds the root's lock.

    Raises ``HostError`` that names the first thing missing. Without root's rights it tries nothing: what is missing
    then is something else.
    """
    if os.geteuid() != 0:
        return
    place = root / _PLACE
    with durable.guarded("make directory", place):
        place.mkdir(0o700, exist_ok=True)
    try:
        _empty(place)  # a process may have been killed here
        for feature, attempt in _FEATURES:
            try:
                works = attempt(place)
            except OSError as error:
                if error.errno in _OF_THE_DISK:
                    raise durable.host_error(error, "try the filesystem of", root) from error
                works = False
            if not works:
                raise HostError(f"the filesystem of {root} cannot hold layers: it has no {feature}", hint=_REMEDY)
    finally:
        _empty(place)
        with durable.guarded("remove", place):
            place.rmdir()


def _empty(place: Path) -> None:
    with durable.guarded("empty", place):
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            empty_directory(descriptor)
        finally:
            os.close(descriptor)


# These say nothing about what the filesystem can do.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _tells_types(place: Path) -> bool:
    """Whether a directory's entries have a type (d_type), without which overlayfs shows whiteouts as files."""
    probe = place / "d_type"
    probe.touch()
    with os.scandir(place) as entries:
        (entry,) = [entry for entry in entries if entry.name == probe.name]
        probe.unlink()
        # The file is gone: only a type that came with the name can tell now.
        return entry.is_file(follow_symlinks=False)


def _tells_cases_apart(place: Path) -> bool:
    (place / "case").touch()
    return not (place / "CASE").exists()


def _keeps_names(place: Path) -> bool:
    name = os.fsencode(place) + b"/\xff\xfe\n\\ "
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return os.path.lexists(name) and name.rpartition(b"/")[2] in [os.fsencode(entry.name) for entry in place.iterdir()]


def _links(place: Path) -> bool:
    (place / "file").touch()
    os.link(place / "file", place / "link")
    (place / "symlink").symlink_to("file")
    return (place / "file").stat().st_nlink == 2 and (place / "symlink").readlink() == Path("file")


def _keeps_owners(place: Path) -> bool:
    file = place / "file"
    os.chown(file, 1, 2)
    file.chmod(0o4755)
    status = file.stat()
    return (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1, 2, 0o4755)


def _has_devices(place: Path) -> bool:
    os.mknod(place / "whiteout", stat.S_IFCHR)
    os.mkfifo(place / "fifo")
    return whiteout.is_whiteout((place / "whiteout").lstat())


def _keeps(name: str, value: bytes) -> Callable[[Path], bool]:
    def attempt(place: Path) -> bool:
        target = place / "file" if name.startswith("security.") else place
        os.setxattr(target, name, value)
        return os.getxattr(target, name) == value and name in os.listxattr(target)

    return attempt


def _renames(place: Path) -> bool:
    (place / "from").mkdir()
    (place / "from").rename(place / "to")
    return not (place / "from").exists()


_FEATURES: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("difference between capital and small letters in names", _tells_cases_apart),
    ("names of arbitrary bytes", _keeps_names),
    ("types in its directory entries (d_type)", _tells_types),
    ("hard and symbolic links", _links),
    ("owners and modes of files", _keeps_owners),
    ("character devices 0:0 and FIFOs (mknod)", _has_devices),
    (f"{whiteout.OPAQUE_XATTR} (trusted extended attributes)", _keeps(whiteout.OPAQUE_XATTR, whiteout.OPAQUE_VALUE)),
    ("security.capability (extended attributes of programs)", _keeps("security.capability", _CAPABILITY)),
    ("user extended attributes", _keeps("user.probe", b"v")),
    ("renaming of directories", _renames),
)
