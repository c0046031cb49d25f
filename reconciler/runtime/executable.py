"""Whether a program can run in a root, found out before the container is made.

``runc start`` reports a missing interpreter or a foreign architecture as the container's own exit 1. Shells and Docker
say 127 for what is not found and 126 for what cannot be executed, and people's scripts count on that.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from posixpath import join

from reconciler.errors import RuntimeFailure
from reconciler.linux.rooted import Rooted
from reconciler.runtime.process import search_path

_HEAD = 4096  # enough for any ELF header with its program headers, and the kernel reads 256 of a script
_MAX_INTERPRETERS = 5  # the kernel's bound on scripts that run scripts
_PT_INTERP = 3
# e_machine of elf(5) that a kernel of each architecture runs, with its 32-bit forms.
_MACHINES = {
    "x86_64": (62, 3),
    "aarch64": (183, 40),
    "armv7l": (40,),
    "riscv64": (243,),
    "ppc64le": (21,),
    "s390x": (22,),
    "i686": (3,),
}
_MACHINE_NAMES = {62: "amd64", 3: "386", 183: "arm64", 40: "arm", 243: "riscv64", 21: "ppc64", 22: "s390x"}
_BINFMT = Path("/proc/sys/fs/binfmt_misc")


def find_executable(root: Rooted, args: Sequence[str], env: Sequence[str], cwd: str = "/") -> str:
    """The path inside ``root`` of the program that ``args[0]`` means, checked to be one this host can run.

    A name without a slash is looked up along PATH of ``env``. Raises ``RuntimeFailure``: code 127 when it or its
    interpreter is not there, 126 when it is no executable of this host.
    """
    name = args[0]
    candidates = [join(cwd, name)] if "/" in name else [join(cwd, place, name) for place in search_path(env)]
    denied: RuntimeFailure | None = None
    for path in candidates:
        try:
            _check(root, name, path, depth=0)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            denied = denied or RuntimeFailure(f"cannot execute {name!r}: {error.strerror}: {path}", code=126)
        else:
            return path
    if denied is not None:
        raise denied
    where = "in the container" if "/" in name else f"in PATH ({':'.join(search_path(env))})"
    raise RuntimeFailure(f"executable {name!r} not found {where}", code=127)


def _check(root: Rooted, name: str, path: str, depth: int) -> None:
    """Raises FileNotFoundError or PermissionError where a search along PATH goes on, else ``RuntimeFailure``."""
    data = _head(root, path)
    if data.startswith(b"\x7fELF"):
        _check_elf(root, name, path, data)
    elif data.startswith(b"#!"):
        if depth == _MAX_INTERPRETERS:
            raise RuntimeFailure(f"cannot execute {name!r}: too many levels of interpreters", code=126)
        words = data[2:].split(b"\n", 1)[0].split()
        if not words:
            raise _format_error(name, path, "a script that names no interpreter")
        interpreter = os.fsdecode(words[0])
        try:
            _check(root, name, join("/", interpreter), depth + 1)
        except FileNotFoundError:
            raise _missing(name, path, interpreter, data) from None
        except PermissionError:
            raise RuntimeFailure(
                f"cannot execute {name!r}: its interpreter {interpreter} is not executable", code=126
            ) from None
    elif not _registered(data, path):
        raise _format_error(name, path, "neither a program nor a script with a #! line")


def _head(root: Rooted, path: str) -> bytes:
    try:
        if not root.stat(path).st_mode & 0o111:
            raise PermissionError(0, "permission denied")
        descriptor = root.open_file(path)
    except NotADirectoryError:
        raise FileNotFoundError(path) from None
    except IsADirectoryError:
        raise PermissionError(0, "is a directory") from None
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:  # a loop of links, a device, a socket
        raise PermissionError(0, (error.strerror or "cannot be opened").lower()) from None
    try:
        return os.pread(descriptor, _HEAD, 0)
    finally:
        os.close(descriptor)


def _check_elf(root: Rooted, name: str, path: str, data: bytes) -> None:
    try:
        machine, interpreter = read_elf(data)
    except (struct.error, ValueError):
        raise _format_error(name, path, "a damaged ELF file") from None
    host = os.uname().machine
    if machine not in _MACHINES.get(host, (machine,)):
        if _registered(data, path):
            return
        built = _MACHINE_NAMES.get(machine, f"machine {machine}")
        raise _format_error(name, path, f"built for {built}, and this host is {host}")
    if interpreter:
        try:
            root.stat(interpreter)
        except OSError:
            raise _missing(name, path, interpreter, data) from None


def read_elf(data: bytes) -> tuple[int, str]:
    """``e_machine`` and the dynamic loader's path ("" for a static program), elf(5)."""
    wide, order = data[4:5] == b"\x02", "<" if data[5:6] == b"\x01" else ">"
    (machine,) = struct.unpack_from(order + "H", data, 18)
    (table,) = struct.unpack_from(order + ("Q" if wide else "I"), data, 32 if wide else 28)
    size, count = struct.unpack_from(order + "HH", data, 54 if wide else 42)
    for start in range(table, min(table + size * count, len(data)), size or len(data)):
        (kind,) = struct.unpack_from(order + "I", data, start)
        if kind == _PT_INTERP:
            (offset,) = struct.unpack_from(order + ("Q" if wide else "I"), data, start + (8 if wide else 4))
            end = data.find(b"\0", offset)
            return machine, os.fsdecode(data[offset:end]) if end > offset else ""
    return machine, ""


def _registered(data: bytes, path: str) -> bool:
    """True when the host's binfmt_misc has a handler for such a file, such as qemu for another architecture."""
    try:
        entries = [entry.read_text() for entry in _BINFMT.iterdir() if entry.name not in ("register", "status")]
    except OSError:
        return False
    return any(matches_binfmt(entry, data, path) for entry in entries)


def matches_binfmt(entry: str, data: bytes, path: str) -> bool:
    """Whether one entry of binfmt_misc, as the kernel shows it, takes a file that begins with ``data``."""
    lines = entry.splitlines()
    fields = dict(line.split(" ", 1) for line in lines if " " in line)
    if not lines or lines[0] != "enabled":
        return False
    if "extension" in fields:
        return path.endswith(fields["extension"])
    magic = bytes.fromhex(fields.get("magic", ""))
    mask = bytes.fromhex(fields.get("mask", "ff" * len(magic)))
    offset = int(fields.get("offset", "0"))
    part = data[offset : offset + len(magic)]
    return (
        bool(magic)
        and len(part) == len(magic)
        and all(byte & bits == wanted & bits for byte, wanted, bits in zip(part, magic, mask, strict=True))
    )


def _format_error(name: str, path: str, why: str) -> RuntimeFailure:
    return RuntimeFailure(
        f"cannot execute {name!r}: exec format error: {path} is {why}",
        hint="Use an image for this host's platform, or a program that it can run.",
        code=126,
    )


def _missing(name: str, path: str, interpreter: str, data: bytes) -> RuntimeFailure:
    kind = "dynamic loader" if data.startswith(b"\x7fELF") else "interpreter"
    return RuntimeFailure(
        f"cannot execute {name!r}: {path} needs the {kind} {interpreter!r}, which is not in the image", code=127
    )
