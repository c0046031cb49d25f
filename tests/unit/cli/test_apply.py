"""Asking, stopping and saved plans, as processes where signals and terminals are concerned."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

STOPPING = """
import os, sys, threading, time
from pathlib import Path
from reconciler.cli.apply import _stopping
from reconciler.cli.context import Context
stop, received = threading.Event(), []
worker = threading.Thread(target=time.sleep, args=(60,))  # a step that does not end
with _stopping(Context(Path("/nowhere"), {}, sys.stdout, sys.stderr), stop, received, lambda _text: None):
    worker.start()
    print("ready", flush=True)
    while not stop.is_set():
        stop.wait(0.05)
    print("stopping", received[0], flush=True)
    worker.join()
"""


@pytest.mark.parametrize(("first", "second", "code"), [("SIGINT", "SIGINT", 130), ("SIGINT", "SIGTERM", 143)])
def test_the_second_signal_ends_the_program_although_a_step_runs(first: str, second: str, code: int) -> None:
    with subprocess.Popen([sys.executable, "-c", STOPPING], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.Signals[first])
        assert process.stdout.readline() == f"stopping {signal.Signals[first]:d}\n".encode()
        process.send_signal(signal.Signals[second])
        assert process.wait(timeout=10) == code


def run(*arguments: object, cwd: Path, stdin: int | None = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from reconciler.cli.main import entry; entry()", "--root", str(cwd / "root")]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, stdin=stdin, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a spec that declares a volume: nothing of it needs the kernel."""
    text = """\
        apiVersion: reconciler/v1
        stack: shop
        volumes: {data: {}}
        """
    (tmp_path / "shop.yaml").write_text(textwrap.dedent(text))
    return tmp_path


def test_apply_without_a_terminal_wants_yes(place: Path) -> None:
    result = run("apply", "shop.yaml", cwd=place)
    assert result.returncode == 64
    assert "--yes" in result.stderr
    assert not (place / "root").exists()


@pytest.mark.parametrize("answer", [b"no\n", b"y\n", b"\n", b"\x04"])
@pytest.mark.parametrize("output", ["text", "json"])
def test_anything_but_yes_is_a_no_and_changes_nothing(place: Path, answer: bytes, output: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from reconciler.cli.main import entry; entry()", "--root", str(place / "root")]
    with subprocess.Popen(
        [*command, "apply", "shop.yaml", "-o", output], cwd=place, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE
    ) as process:
        os.close(theirs)
        shown = b""
        while b"is a yes: " not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, answer)
        out, _ = process.communicate(timeout=30)
    os.close(ours)
    assert process.returncode == 1
    assert b"volume/shop/data" in (out if output == "text" else shown), "nobody can agree to what is not shown"
    assert output == "text" or out == b""
    assert not (place / "root").exists()


def test_a_saved_plan_knows_its_specs_from_any_directory(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "vars").write_text("NAME=value\n")
    saved = run("plan", "shop.yaml", "--env-file", "vars", "--out", "plan.json", cwd=place)
    assert saved.returncode == 0
    assert (place / "plan.json").stat().st_mode & 0o777 == 0o600
    sources = json.loads((place / "plan.json").read_text())["sources"]
    assert sources["paths"] == [str(place / "shop.yaml")]
    assert sources["env_file"] == [str(place / "vars")]


def test_a_spec_in_json_is_no_saved_plan(place: Path) -> None:
    (place / "shop.yaml").unlink()
    (place / "shop.json").write_text('{"apiVersion": "reconciler/v1", "stack": "shop", "volumes": {"data": {}}}')
    result = run("apply", "shop.json", cwd=place)
    assert "volume/shop/data" in result.stdout
    assert result.returncode == 64  # it would ask


def test_a_damaged_saved_plan_is_told_from_a_spec(place: Path) -> None:
    (place / "plan.json").write_text('{"kind": "reconciler/plan", ')
    result = run("apply", "plan.json", "--yes", cwd=place)
    assert (result.returncode, result.stdout) == (1, "")
    assert "damaged" in result.stderr


def test_a_pipe_that_closes_is_no_traceback(place: Path) -> None:
    script = "from reconciler.cli.main import entry; entry()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "--root", str(place / "root"), "plan", "shop.yaml", "-o", "json"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=30) == 128 + signal.SIGPIPE
    assert errors == b""
