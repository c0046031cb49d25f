"""Mounts, through system calls: overlay and bind mounts, unmounting, and the mount table.

Overlay mounts use the new mount API where the kernel has it (fsopen(2), with one ``lowerdir+`` per layer since Linux
6.7), so that the number of layers is not bounded by the one page that mount(2) takes its options in. Older kernels get
the number of a descriptor for each layer in that page, relative to ``/proc/self/fd``: 500 of them fit.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from functools import cache
from pathlib import Path
from typing import Literal

from reconciler.errors import HostError
from reconciler.linux import durable, watch
from reconciler.value import dataclass

Propagation = Literal["private", "shared", "slave"]

# include/uapi/linux/mount.h
_MS_RDONLY = 0x1
_MS_REMOUNT = 0x20
_MS_BIND = 0x1000
_MS_REC = 0x4000
_PROPAGATION = {"private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20}
_MNT_DETACH = 0x2
_UMOUNT_NOFOLLOW = 0x8
_FSOPEN_CLOEXEC = 0x1
_FSMOUNT_CLOEXEC = 0x1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_AT_FDCWD = -100
_CLONE_FS = 0x200
# The same on every architecture (all system calls from 424 on are).
_SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 429, 430, 431, 432
# statvfs flags that a remount would drop if it did not repeat them, as mount(2) flags: nosuid, nodev, noexec, noatime,
# nodiratime, relatime.
_KEPT_FLAGS = {0x2: 0x2, 0x4: 0x4, 0x8: 0x8, 0x400: 0x400, 0x800: 0x800, 0x1000: 1 << 21}

MAX_LOWERS = 500  # fs/overlayfs/params.h, OVL_MAX_STACK
_MAX_STRING = 255  # fsconfig(2) takes strings of at most 256 bytes with their NUL
_OPTIONS = {"index": "off", "metacopy": "off", "redirect_dir": "off"}


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay mount: ``lowers`` top first, at least one; read-only when ``upper`` and ``work`` are None.

    ``upper`` and ``work`` are empty or earlier used directories on one filesystem. Redirects, metacopy and the inode
    index are off: then every directory of ``upper`` can be read by itself.
    """

    lowers: tuple[Path, ...]
    upper: Path | None
    work: Path | None
    target: Path


@dataclass(frozen=True, slots=True)
class Bind:
    """A bind mount of a file or directory on an existing one of the same kind."""

    source: Path
    target: Path
    read_only: bool = False
    propagation: Propagation = "private"
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of the mount table (proc(5), /proc/pid/mountinfo). ``root`` is the part of the filesystem shown."""

    id: int
    parent: int
    device: str
    root: str
    target: Path
    options: tuple[str, ...]
    filesystem: str
    source: str


def mount(what: Overlay | Bind, *, point: str = "mounts") -> None:
    """Mounts. Raises ``HostError``; nothing is mounted then. ``point`` names the call site, as in ``durable``."""
    with durable.guarded("mount", what.target), watch.operation(point, "mount", what.target):
        if isinstance(what, Overlay):
            _mount_overlay(what)
        else:
            _mount_bind(what)


def unmount(target: Path, *, detach: bool = False, point: str = "mounts") -> bool:
    """Unmounts the topmost mount at ``target``; False when nothing is mounted there.

    ``detach`` takes it out of sight at once even if it is in use (the kernel ends it when nobody uses it any more).
    Raises ``HostError`` when it is busy.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if detach else 0)
    with durable.guarded("unmount", target), watch.operation(point, "unmount", target):
        if _libc().umount2(os.fsencode(target), flags) == 0:
            return True
        number = ctypes.get_errno()
    # EINVAL: not a mount point.
    if number in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
        return False
    if number == errno.EBUSY:
        raise HostError(f"cannot unmount {target}: it is in use", hint=f"see who uses it: fuser -vm {target}")
    raise durable.host_error(OSError(number, os.strerror(number)), "unmount", target)


def table() -> tuple[MountPoint, ...]:
    """All mounts of this process's mount namespace, in the order of mounting."""
    return tuple(map(_parse, _lines()))


def mounts_below(path: Path) -> tuple[Path, ...]:
    """The mount points at ``path`` and below it, deepest and newest first: the order in which to unmount them."""
    real = path.resolve()
    inside = str(real).rstrip("/") + "/"
    # A host may have thousands of mounts, each of which costs little as text and much as a path.
    targets = [_unescaped(line.split(b" ", 5)[4]) for line in _lines()]
    return tuple(Path(target) for target in reversed(targets) if target == str(real) or target.startswith(inside))


def is_mounted(target: Path) -> bool:
    """Whether something is mounted exactly at ``target``. Costs the same however many mounts there are."""
    real = target.resolve()
    return real.exists() and _mount_id(real) != _mount_id(real.parent)


def _mount_id(path: Path) -> bytes:
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        information = Path(f"/proc/self/fdinfo/{descriptor}").read_bytes()
    finally:
        os.close(descriptor)
    return next(line for line in information.splitlines() if line.startswith(b"mnt_id:"))


def _mount_overlay(overlay: Overlay) -> None:
    if not overlay.lowers:
        raise ValueError("an overlay needs a lower directory")
    if len(overlay.lowers) > MAX_LOWERS:
        raise HostError(
            f"cannot mount {overlay.target}: {len(overlay.lowers)} layers, and the kernel takes {MAX_LOWERS}",
            hint="build the image with fewer layers",
        )
    with contextlib.ExitStack() as opened, durable.guarded("mount", overlay.target):
        context = _open_context()
        if context is None:
            _mount_in_one_page(overlay, opened)
            return
        opened.callback(os.close, context)
        try:
            for lower in overlay.lowers:
                _configure(context, "lowerdir+", _short(lower, opened))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise _explained(error, context, overlay.target) from error
            _mount_in_one_page(overlay, opened)
            return
        try:
            _create(context, overlay, opened)
        except OSError as error:
            raise _explained(error, context, overlay.target) from error


def _create(context: int, overlay: Overlay, opened: contextlib.ExitStack) -> None:
    if overlay.upper is not None and overlay.work is not None:
        _configure(context, "upperdir", _short(overlay.upper, opened))
        _configure(context, "workdir", _short(overlay.work, opened))
    else:
        _call(_SYS_FSCONFIG, context, _FSCONFIG_SET_FLAG, b"ro", None, 0)
    _configure(context, "source", "overlay")
    for key, value in _OPTIONS.items():
        _configure(context, key, value)
    _call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
    mounted = _call(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    try:
        _call(_SYS_MOVE_MOUNT, mounted, b"", _AT_FDCWD, os.fsencode(overlay.target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(mounted)


def _mount_in_one_page(overlay: Overlay, opened: contextlib.ExitStack) -> None:
    options = dict(_OPTIONS) | {"lowerdir": ":".join(_by_number(path, opened) for path in overlay.lowers)}
    if overlay.upper is not None and overlay.work is not None:
        options["upperdir"] = _by_number(overlay.upper, opened)
        options["workdir"] = _by_number(overlay.work, opened)
    data = ",".join(f"{key}={value}" for key, value in options.items()).encode()
    if len(data) >= os.sysconf("SC_PAGE_SIZE"):
        raise HostError(
            f"cannot mount {overlay.target}: this kernel cannot take {len(overlay.lowers)} layers at once",
            hint="use Linux 6.7 or newer, or an image with fewer layers",
        )
    flags = 0 if overlay.upper is not None else _MS_RDONLY
    from concurrent.futures import ThreadPoolExecutor

    def mount_among_descriptors() -> None:
        # A thread of its own has a working directory of its own, once it says so.
        if _libc().unshare(_CLONE_FS) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        os.chdir("/proc/self/fd")
        _mount(b"overlay", overlay.target.absolute(), b"overlay", flags, data)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(mount_among_descriptors).result()


def _mount_bind(bind: Bind) -> None:
    with durable.guarded("mount", bind.target):
        recursive = _MS_REC if bind.recursive else 0
        _mount(os.fsencode(bind.source), bind.target, None, _MS_BIND | recursive, None)
        try:
            _mount(b"", bind.target, None, _PROPAGATION[bind.propagation] | recursive, None)
            if bind.read_only:
                # MS_BIND ignores MS_RDONLY; it takes a remount of the mount just made.
                present = os.statvfs(bind.target).f_flag
                kept = sum(flag for seen, flag in _KEPT_FLAGS.items() if present & seen)
                _mount(b"", bind.target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept, None)
        except OSError:
            unmount(bind.target, detach=True)
            raise


def _open_context() -> int | None:
    """A new overlay configuration (fsopen(2)); None on kernels without that."""
    try:
        return _call(_SYS_FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return None
        if error.errno == errno.ENODEV:
            raise HostError("the kernel has no overlay filesystem", hint="load it: modprobe overlay") from error
        raise


def _configure(context: int, key: str, value: str) -> None:
    _call(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)


def _explained(error: OSError, context: int, target: Path) -> HostError:
    """The error with what the kernel logged for this configuration (lines such as "e overlay: ...")."""
    lines = []
    with contextlib.suppress(OSError):
        while line := os.read(context, 1024):
            lines.append(line.decode(errors="replace").strip()[2:])
    failure = durable.host_error(error, "mount", target)
    message = f"{failure} ({'; '.join(lines)})" if lines else str(failure)
    return HostError(message, hint=failure.hint or "the kernel log (dmesg) says which directory it did not like")


def _short(path: Path, opened: contextlib.ExitStack) -> str:
    """A path as an option: by descriptor where it is too long, or has what overlayfs takes for an escape."""
    text = str(path)
    return text if len(os.fsencode(text)) <= _MAX_STRING and "\\" not in text else _by_descriptor(path, opened)


def _by_descriptor(path: Path, opened: contextlib.ExitStack) -> str:
    return f"/proc/self/fd/{_by_number(path, opened)}"


def _by_number(path: Path, opened: contextlib.ExitStack) -> str:
    handle = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.callback(os.close, handle)
    return str(handle)


_ESCAPE = re.compile(rb"\\([0-7]{3})")


def _lines() -> list[bytes]:
    with durable.guarded("read", Path("/proc/self/mountinfo")):
        return Path("/proc/self/mountinfo").read_bytes().splitlines()


def _parse(line: bytes) -> MountPoint:
    fields = line.split(b" ")
    # Optional fields, ended by a dash, lie between the sixth and the filesystem type.
    dash = fields.index(b"-", 6)
    return MountPoint(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=fields[2].decode(),
        root=_unescaped(fields[3]),
        target=Path(_unescaped(fields[4])),
        options=tuple(fields[5].decode().split(",")),
        filesystem=fields[dash + 1].decode(),
        source=_unescaped(fields[dash + 2]),
    )


def _unescaped(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def _mount(source: bytes, target: Path, filesystem: bytes | None, flags: int, data: bytes | None) -> None:
    if _libc().mount(source, os.fsencode(target), filesystem, ctypes.c_ulong(flags), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _call(number: int, *arguments: int | bytes | None) -> int:
    # Integers are passed as C longs: syscall(2) is variadic, and ctypes would make them ints.
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_libc().syscall(ctypes.c_long(number), *passed))
    if result < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return result


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
