"""What lands below a root, or in its runtime directory, goes through named points (``linux.durable``, ``linux.watch``).

A call that changes a filesystem is refused in the rooms below, unless it is one of ``ALLOWED`` with the reason beside
it, or stands in a block that announces it (``with watch.operation(...)``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "reconciler"
ROOMS = ("store", "engine", "runtime", "network", "linux", "daemon", "source")

OS_CALLS = {
    *(
        "rename",
        "replace",
        "unlink",
        "remove",
        "rmdir",
        "mkdir",
        "makedirs",
        "removedirs",
        "renames",
        "link",
        "symlink",
    ),
    *("mknod", "mkfifo", "write", "pwrite", "writev", "pwritev", "truncate", "ftruncate", "fsync", "fdatasync", "sync"),
    *("sendfile", "copy_file_range", "splice", "posix_fallocate"),
}
PATH_CALLS = {"rename", "unlink", "rmdir", "mkdir", "touch", "write_text", "write_bytes", "symlink_to", "hardlink_to"}
LIBC_CALLS = {"mount", "umount", "umount2", "syncfs", "renameat2"}
SHUTIL_CALLS = {"rmtree", "move", "copy", "copy2", "copyfile", "copytree"}
TEMPORARY = {"mkdtemp", "mkstemp", "NamedTemporaryFile"}

STREAM = "fills a directory that nobody sees yet; each entry is announced, and one syncfs makes all of it durable"
ALLOWED = {
    "linux/durable.py": "is where it is done",
    "linux/cgroups.py": "control files of the kernel, which a reboot makes anew",
    "network/sysctl.py": "settings of the kernel, which a reboot makes anew",
    "linux/lock.py": "lock files: the kernel's lock counts, not the file",
    "linux/rooted.py": "a directory inside a container's own filesystem, as its program could make it",
    "linux/mounts.py": "announced by ``mount`` and ``unmount``, whichever system calls they take",
    "linux/tree.py": "a removal is announced as a whole; what is left of it is removed by the next",
    "store/layers/extract.py": STREAM,
    "store/layers/tree.py": STREAM,
    "store/archive/sparse.py": STREAM,
    "store/emptying.py": "empties a directory that nobody uses; what is left of it is removed by the next",
    "store/probe.py": "tries things out in a directory of its own, which the next try empties",
    "store/arrival.py": "a pipe to a worker",
    "store/readonly.py": "a private copy outside the root",
    "runtime/terminal.py": "a terminal and a control FIFO, not files",
    "runtime/conmon.py": "what a program says on its error output, in /run",
    "source/trees.py": STREAM,
    "source/command.py": "a pipe to git",
}


def changes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The calls that change a filesystem and that no block announces."""
    announced = {
        id(inner)
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and any("operation(" in ast.unparse(item.context_expr) for item in block.items)
        for statement in block.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and id(node) not in announced and (what := _change(node)) is not None:
            yield node.lineno, what


def _change(call: ast.Call) -> str | None:
    function = call.func
    if isinstance(function, ast.Name):
        return "open for writing" if function.id == "open" and _writes(call, 1) else None
    if not isinstance(function, ast.Attribute):
        return None
    owner, name = ast.unparse(function.value), function.attr
    if owner == "os":
        if name == "open":
            flags = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
            return f"os.open with {flags}" if "O_CREAT" in flags or "O_TRUNC" in flags else None
        if name == "fdopen":
            return None  # what is open was announced, or was refused, when it was opened
        return f"os.{name}" if name in OS_CALLS else None
    if (owner == "shutil" and name in SHUTIL_CALLS) or (owner == "tempfile" and name in TEMPORARY):
        return f"{owner}.{name}"
    if "libc" in owner:
        return f"libc.{name}" if name in LIBC_CALLS else None
    if owner in ("durable", "namespaces", "mounts", "cgroups", "volumes", "self") or owner.endswith("cgroups"):
        return None
    if name == "open" and _writes(call, 0):
        return "open for writing"
    if name == "replace" and len(call.args) == 1 and not call.keywords:
        return "Path.replace"
    if name == "execute" and call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == "COMMIT":
        return "COMMIT"
    return f"Path.{name}" if name in PATH_CALLS else None


def _writes(call: ast.Call, position: int) -> bool:
    modes = [*call.args[position : position + 1], *(word.value for word in call.keywords if word.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)


def found() -> dict[str, list[str]]:
    result = {}
    for room in ROOMS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            name = str(path.relative_to(PACKAGE))
            lines = [f"{name}:{line} {what}" for line, what in changes(ast.parse(path.read_text()))]
            if lines:
                result[name] = lines
    return result


def test_what_lands_on_disk_goes_through_named_points() -> None:
    stray = [line for name, lines in found().items() if name not in ALLOWED for line in lines]
    assert not stray, "\n".join(stray)


def test_no_exception_is_kept_that_nothing_needs() -> None:
    assert set(ALLOWED) <= set(found())


def test_the_rule_sees_what_it_forbids() -> None:
    source = """
import os, shutil
os.rename(a, b); a.replace(b); a.mkdir(); shutil.rmtree(a); a.open("wb"); open(a, mode="a"); os.fsync(1)
os.open(a, os.O_CREAT | os.O_EXCL); _libc().mount(a, b); connection.execute("COMMIT"); os.write(1, b"")
text.replace("a", "b"); a.open("rb"); os.open(a, os.O_RDONLY); connection.execute("SELECT 1")
with durable.guarded("x", a), watch.operation("x", "unlink", a):
    a.unlink()
"""
    assert len(list(changes(ast.parse(source)))) == 11
