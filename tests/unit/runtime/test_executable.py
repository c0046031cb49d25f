"""Finding the program to run, and why it cannot."""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

import pytest

from reconciler.errors import RuntimeFailure
from reconciler.linux.rooted import Rooted
from reconciler.runtime.executable import find_executable, matches_binfmt

_ENV = ("PATH=/usr/bin:/bin",)
_MACHINE = {"x86_64": 62, "aarch64": 183}.get(platform.machine(), 62)


def elf(machine: int = _MACHINE, interpreter: str = "") -> bytes:
    """A 64-bit little-endian ELF file with at most one program header."""
    name = interpreter.encode() + b"\0"
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1 if interpreter else 0, 0, 0, 0)
    if not interpreter:
        return header
    return header + struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(name), len(name), 1) + name


def put(image: Path, path: str, data: bytes, mode: int = 0o755) -> None:
    file = image / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    file.chmod(mode)


def find(image: Path, *args: str, cwd: str = "/") -> str:
    with Rooted(image) as root:
        return find_executable(root, args, _ENV, cwd)


def refused(image: Path, *args: str) -> tuple[int, str]:
    with pytest.raises(RuntimeFailure) as caught:
        find(image, *args)
    return caught.value.code, str(caught.value)


def test_found_along_path_in_order(tmp_path):
    put(tmp_path, "bin/tool", elf())
    assert find(tmp_path, "tool") == "/bin/tool"
    put(tmp_path, "usr/bin/tool", elf())
    assert find(tmp_path, "tool") == "/usr/bin/tool"


def test_relative_to_the_working_directory(tmp_path):
    put(tmp_path, "srv/run", elf())
    assert find(tmp_path, "./run", cwd="/srv") == "/srv/./run"


@pytest.mark.parametrize("name", ["tool", "/bin/tool", "./tool", "bin/file/tool"])
def test_x04_not_there_is_127(tmp_path, name):
    put(tmp_path, "bin/file", elf())
    code, message = refused(tmp_path, name)
    assert code == 127
    assert repr(name) in message


def test_x04_missing_script_interpreter_is_127_and_named(tmp_path):
    put(tmp_path, "bin/run", b"#!/usr/bin/python3 -u\n")
    code, message = refused(tmp_path, "run")
    assert code == 127
    assert "'/usr/bin/python3'" in message


def test_x04_missing_dynamic_loader_is_127_and_named(tmp_path):
    put(tmp_path, "bin/run", elf(interpreter="/lib64/ld-linux-x86-64.so.2"))
    code, message = refused(tmp_path, "run")
    assert code == 127
    assert "dynamic loader '/lib64/ld-linux-x86-64.so.2'" in message
    put(tmp_path, "lib64/ld-linux-x86-64.so.2", elf())
    assert find(tmp_path, "run") == "/bin/run"


def test_x04_the_interpreter_is_not_sought_on_the_host(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/run").symlink_to("../../../../../../../../bin/busybox")
    assert refused(tmp_path, "run")[0] == 127


@pytest.mark.parametrize("data", [b"", b"plain text\n", b"#!\n", b"#! \n", b"\x7fELF", elf(machine=22), elf()[:20]])
def test_x05_exec_format_error_is_126(tmp_path, data):
    put(tmp_path, "bin/run", data)
    code, message = refused(tmp_path, "run")
    assert code == 126
    assert "exec format error" in message


def test_x05_names_both_architectures(tmp_path):
    put(tmp_path, "bin/run", elf(machine=22))
    assert f"built for s390x, and this host is {platform.machine()}" in refused(tmp_path, "/bin/run")[1]


def test_x05_a_script_whose_interpreter_is_foreign(tmp_path):
    put(tmp_path, "bin/foreign", elf(machine=22))
    put(tmp_path, "bin/run", b"#!/bin/foreign\n")
    assert refused(tmp_path, "run")[0] == 126


def test_not_executable_is_126_unless_a_later_place_has_one(tmp_path):
    put(tmp_path, "usr/bin/tool", elf(), 0o644)
    assert refused(tmp_path, "tool")[0] == 126
    put(tmp_path, "bin/tool", elf())
    assert find(tmp_path, "tool") == "/bin/tool"


@pytest.mark.timeout(5)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to(p.name)])
def test_what_is_no_file_is_126_without_blocking(tmp_path, make):
    (tmp_path / "bin").mkdir()
    make(tmp_path / "bin/odd")
    if not (tmp_path / "bin/odd").is_symlink():
        (tmp_path / "bin/odd").chmod(0o755)
    assert refused(tmp_path, "/bin/odd")[0] == 126


def test_scripts_that_run_themselves_end(tmp_path):
    put(tmp_path, "bin/run", b"#!/bin/run\n")
    assert refused(tmp_path, "run")[0] == 126


_QEMU = "enabled\ninterpreter /usr/bin/qemu-s390x\nflags: F\noffset 0\nmagic 7f454c46\nmask ffffffff\n"


def test_registered_formats_are_recognised():
    assert matches_binfmt(_QEMU, elf(machine=22), "/x")
    assert not matches_binfmt(_QEMU, b"#!/bin/sh", "/x")
    assert not matches_binfmt(_QEMU.replace("enabled", "disabled"), elf(), "/x")
    assert not matches_binfmt(_QEMU, b"\x7f", "/x")
    assert matches_binfmt("enabled\ninterpreter /usr/bin/java\nflags: \nextension .jar\n", b"PK", "/a/b.jar")
