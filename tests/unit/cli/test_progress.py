"""What is seen of layers that come and go: on terminals, in logs, as JSON, and when all is to be quiet."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from reconciler.apply.report import Moved, StepResult
from reconciler.cli.board import Board
from reconciler.cli.context import Context
from reconciler.cli.layers import Layer
from reconciler.cli.live import LiveDisplay
from reconciler.cli.main import main
from reconciler.cli.progress import JsonDisplay, PlainDisplay, _can_be_drawn_on, display, transfer
from reconciler.cli.report import moved_words
from reconciler.cli.step_words import ending
from reconciler.clock import ManualClock
from reconciler.engine.port import ItemState, Outcome, ProgressEvent
from reconciler.errors import HostError, RegistryError
from reconciler.model.action import ReleaseVolume
from reconciler.model.address import Address
from reconciler.plan.plan import Step

APP = Address("image", "shop/app")
DATA = Address("volume", "shop/data")
STEP = Step(ReleaseVolume(DATA))
MB = 1_000_000


def event(state: ItemState, done: int = 0, total: int | None = 60 * MB, item: str = "0123456789ab") -> ProgressEvent:
    return ProgressEvent(APP, item, state, done, total)


def context(progress: str = "plain", **environment: str) -> Context:
    return Context(Path("/root-directory"), environment, io.StringIO(), io.StringIO(), progress=progress)


def errors(made: Context) -> str:
    assert isinstance(made.stdout, io.StringIO) and isinstance(made.stderr, io.StringIO)
    assert made.stdout.getvalue() == "", "stdout is for data"
    return made.stderr.getvalue()


def result(**fields: object) -> StepResult:
    return replace(StepResult(STEP.id, DATA, "release", "done", Outcome(bytes_pulled=1000)), **fields)  # type: ignore[arg-type]


# A layer in words


@pytest.mark.parametrize(
    ("state", "done", "words"),
    [
        ("waiting", 0, "Waiting"),
        ("pulling", 0, "Pulling fs layer (60.0 MB)"),
        ("resuming", 30 * MB, "Resuming at 30.0 MB/60.0 MB"),
        ("downloading", 12_300_000, "Downloading  12.3 MB/60.0 MB"),
        ("verifying", 60 * MB, "Verifying"),
        ("extracting", 60 * MB, "Extracting"),
        ("complete", 60 * MB, "Pull complete (60.0 MB)"),
        ("exists", 60 * MB, "Already exists (60.0 MB)"),
        ("uploading", 1 * MB, "Pushing  1.0 MB/60.0 MB"),
        ("pushed", 60 * MB, "Pushed (60.0 MB)"),
        ("present", 60 * MB, "Layer already exists (60.0 MB)"),
        ("loading", 1 * MB, "Loading  1.0 MB/60.0 MB"),
        ("loaded", 60 * MB, "Loaded (60.0 MB)"),
    ],
)
def test_each_state_reads_as_people_know_it(state: ItemState, done: int, words: str) -> None:
    assert Layer(event(state, done), 0.0).words() == words


def test_a_mounted_layer_names_where_it_came_from_and_an_unknown_end_is_left_out() -> None:
    mounted = replace(event("mounted", MB, MB), origin="shop/base")
    assert Layer(mounted, 0.0).words() == "Mounted from shop/base (1.0 MB)"
    assert Layer(event("uploading", 5, None), 0.0).words() == "Pushing  5 B"


def test_speed_counts_what_came_now_and_forgets_what_was_thrown_away() -> None:
    layer = Layer(event("waiting"), 0.0)
    layer.hear(event("resuming", 30 * MB), 9.0)
    layer.hear(event("downloading", 31 * MB), 9.1)
    assert layer.rate == 0, "too early to tell"
    layer.hear(event("downloading", 40 * MB), 10.0)
    assert layer.rate == 10 * MB
    assert layer.words() == "Downloading  40.0 MB/60.0 MB  10.0 MB/s  (from 30.0 MB)"
    layer.hear(event("downloading", 1 * MB), 11.0)
    layer.hear(event("downloading", 11 * MB), 12.0)
    assert layer.rate == pytest.approx(10 * MB)
    layer.hear(event("extracting", 60 * MB), 12.1)
    assert (layer.rate, layer.active, layer.ended) == (0, True, False)


# A terminal


def board(layers: int, *states: ItemState) -> Board:
    made = Board()
    made.begin(str(APP), "pull image/shop/app", 0.0)
    for number in range(layers):
        state = states[number % len(states)]
        made.hear(event(state, MB if state == "downloading" else 0, 2 * MB, f"{number:012x}"), 0.0)
    return made


def test_a_line_for_the_step_and_one_for_each_layer() -> None:
    made = board(3, "downloading", "exists", "waiting")
    assert made.lines(100, 24, 1.4) == [
        "pull image/shop/app  1.0 MB/4.0 MB  1 of 3 layers  1.4 s",
        "  000000000000: [============>           ] Downloading  1.0 MB/2.0 MB",
        "  000000000001: Already exists (2.0 MB)",
        "  000000000002: Waiting",
    ]
    assert made.lines(60, 24, 1.4)[1] == "  000000000000: Downloading  1.0 MB/2.0 MB", "no room for a bar"


@pytest.mark.parametrize("height", [2, 3, 7, 20])
@pytest.mark.parametrize("width", [40, 79, 80, 300])
def test_many_layers_come_down_to_those_under_way_and_the_sum(width: int, height: int) -> None:
    made = board(400, "exists", "downloading", "waiting", "waiting")
    lines = made.lines(width, height, 2.0)
    assert len(lines) == height
    assert all(len(line) <= width for line in lines)
    assert lines[0] == "pull image/shop/app  100.0 MB/600.0 MB  100 of 400 layers  2.0 s"[:width]
    assert all("Downloading" in line for line in lines[1:])


def test_more_steps_than_lines_are_counted() -> None:
    made = Board()
    for number in range(30):
        made.begin(f"container/shop/c{number}", f"start c{number}", 0.0)
    assert made.lines(80, 4, 0.5) == ["start c0  0.5 s", "start c1  0.5 s", "start c2  0.5 s", "and 27 more"]
    made.notice = "stopping: waiting for what runs"
    assert made.lines(80, 3, 0.5) == ["start c0  0.5 s", "and 29 more", "stopping: waiting for what runs"]
    for number in range(30):
        made.end(f"container/shop/c{number}")
    made.hear(event("downloading"), 1.0)
    assert made.lines(80, 3, 0.5) == ["stopping: waiting for what runs"], "what has ended is not heard any more"


class Screen:
    """A terminal of rich's that writes into memory, and what a person would see on it."""

    def __init__(self, width: int = 100, height: int = 12) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=True, width=width, height=height, highlight=False)

    @property
    def written(self) -> str:
        return self.file.getvalue()

    def seen(self) -> list[str]:
        """The lines, after all erasing and going up (ECMA-48: EL 2, CUU 1); colours are left out."""
        lines, row = [""], 0
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", self.written):
            if part == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif part == "\x1b[2K":
                lines[row] = ""
            elif part == "\x1b[1A":
                row -= 1
            elif part[0] not in "\x1b\r":
                lines[row] += part
        return [line.rstrip() for line in lines if line.strip()]


def test_what_runs_is_redrawn_in_place_and_what_ended_scrolls_above() -> None:
    screen, clock = Screen(), ManualClock()
    with LiveDisplay(screen.console, stays=False, auto=False, monotonic=clock.monotonic) as shown:
        shown.begin(str(APP), "pull image/shop/app")
        shown.progress(event("downloading", 12 * MB))
        shown.step(STEP, None)
        shown.draw()
        shown.note("passing over \x1b[2Jmirror: no; asking origin")
        assert screen.seen() == [
            "passing over \\x1b[2Jmirror: no; asking origin",
            "pull image/shop/app  12.0 MB/60.0 MB  0.0 s",
            "  0123456789ab: [=====>                  ] Downloading  12.0 MB/60.0 MB",
            "release volume/shop/data  0.0 s",
        ]
        shown.step(STEP, result(seconds=1.25))
        shown.draw()
        assert screen.seen()[1:3] == [
            "release volume/shop/data: done in 1.2 s (1.0 kB pulled)",
            "pull image/shop/app  12.0 MB/60.0 MB  0.0 s",
        ]
    assert screen.seen()[1:] == ["release volume/shop/data: done in 1.2 s (1.0 kB pulled)"]
    assert screen.written.count("\x1b[?25l") == screen.written.count("\x1b[?25h") == 1


def test_the_last_state_of_a_transfer_by_hand_stays() -> None:
    screen = Screen()
    with LiveDisplay(screen.console, stays=True, auto=False) as shown:
        shown.begin(str(APP), "pull app")
        shown.progress(event("complete", 60 * MB))
    assert screen.seen()[1] == "  0123456789ab: Pull complete (60.0 MB)"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RegistryError("no")])
def test_the_cursor_comes_back_whatever_ends_it(error: BaseException | type[BaseException]) -> None:
    screen = Screen()
    stderr = sys.stderr
    with (
        pytest.raises((KeyboardInterrupt, RegistryError)),
        LiveDisplay(screen.console, stays=False, auto=False) as shown,
    ):
        shown.begin(str(APP), "pull app")
        shown.progress(event("downloading", MB))
        raise error
    assert screen.written.rfind("\x1b[?25h") > screen.written.rfind("\x1b[?25l") >= 0
    assert sys.stderr is stderr


@pytest.mark.parametrize(("width", "height"), [(20, 3), (40, 6), (500, 100)])
def test_no_frame_is_larger_than_its_terminal(width: int, height: int) -> None:
    screen = Screen(width, height)
    shown = LiveDisplay(screen.console, stays=False)
    for number in range(50):
        shown.begin(f"image/shop/{number}", f"pull {'x' * 200}")
    lines = shown.frame().plain.splitlines()
    assert len(lines) == min(height - 1, 50)
    assert max(map(len, lines)) <= width


class Terminal(io.StringIO):
    """A stream that stands for the terminal ``descriptor``."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor


@pytest.mark.parametrize(
    ("term", "rows", "columns", "drawn"),
    [
        ("xterm", 24, 80, True),
        ("dumb", 24, 80, False),
        ("", 24, 80, False),
        ("xterm", 24, 30, False),
        ("xterm", 3, 80, False),
        ("xterm", 0, 0, False),
    ],
)
def test_a_terminal_without_a_cursor_or_room_gets_plain_lines(term: str, rows: int, columns: int, drawn: bool) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (rows, columns))
    try:
        made = replace(context("tty", TERM=term), stderr=Terminal(theirs))
        assert _can_be_drawn_on(made) is drawn
        with display(made) as shown:
            assert isinstance(shown, LiveDisplay if drawn else PlainDisplay)
    finally:
        os.close(ours)
        os.close(theirs)


# A log


def test_plain_is_a_line_for_each_state_and_none_for_each_chunk() -> None:
    made = context()
    with display(made) as shown:
        shown.step(STEP, None)
        shown.progress(event("waiting"))
        shown.progress(event("pulling"))
        for done in range(100):
            shown.progress(event("downloading", done * MB // 2))
        shown.progress(event("verifying", 60 * MB))
        for _ in range(2):
            shown.progress(event("extracting", 60 * MB))
            shown.progress(event("complete", 60 * MB))
        shown.step(STEP, result(seconds=1.25))
        shown.step(STEP, result(status="failed", outcome=None, error=HostError("no \x1b[2J", hint="do")))
    assert errors(made).splitlines() == [
        "image/shop/app: 0123456789ab: Pulling fs layer (60.0 MB)",
        "image/shop/app: 0123456789ab: Extracting",
        "image/shop/app: 0123456789ab: Pull complete (60.0 MB)",
        "release volume/shop/data: done in 1.2 s (1.0 kB pulled)",
        "release volume/shop/data: FAILED: no \\x1b[2J (do)",
    ]


def test_plain_tells_of_a_long_download_every_few_seconds() -> None:
    made, clock = context(), ManualClock()
    shown = PlainDisplay(made, prefix=False, monotonic=clock.monotonic)
    shown.progress(event("resuming", 10 * MB))
    for second in range(1, 13):
        clock.advance(1)
        shown.progress(event("downloading", (10 + second) * MB))
    assert errors(made).splitlines() == [
        "0123456789ab: Resuming at 10.0 MB/60.0 MB",
        "0123456789ab: Downloading  15.0 MB/60.0 MB  1.0 MB/s  (from 10.0 MB)",
        "0123456789ab: Downloading  20.0 MB/60.0 MB  1.0 MB/s  (from 10.0 MB)",
    ]


def test_no_terminal_means_plain_and_a_transfer_by_hand_says_no_address() -> None:
    made = context("auto")
    with transfer(made, APP, "pull app") as progress:
        progress("0123456789ab", "complete", 5, 5)
        made.note("asking Y")
    assert errors(made) == "0123456789ab: Pull complete (5 B)\nasking Y\n"


# For programs


def test_json_is_one_object_a_line_and_bytes_come_at_most_five_times_a_second() -> None:
    made, clock = context("json"), ManualClock()
    shown = JsonDisplay(made, clock.monotonic)
    shown.step(STEP, None)
    shown.progress(event("pulling"))
    for done in range(100):
        clock.advance(0.01)
        shown.progress(event("downloading", done, None))
    shown.progress(replace(event("mounted", 5, 5), origin="shop/base"))
    shown.step(STEP, result(status="blocked", outcome=None, blocked_by="pull image/shop/app"))
    shown.step(STEP, result(seconds=0.5))
    lines = [json.loads(line) for line in errors(made).splitlines()]
    downloads = [line["done"] for line in lines if line.get("state") == "downloading"]
    assert downloads == [0, 20, 40, 60, 80]
    others = [line for line in lines if line.get("state") != "downloading"]
    address, item = "image/shop/app", "0123456789ab"
    progress = {"event": "progress", "address": address, "item": item}
    step = {"event": "step", "id": "release volume/shop/data", "address": "volume/shop/data"}
    assert others == [
        {**step, "status": "started"},
        {**progress, "state": "pulling", "done": 0, "total": 60 * MB},
        {**progress, "state": "mounted", "done": 5, "total": 5, "origin": "shop/base"},
        {**step, "status": "blocked", "seconds": 0.0, "blocked_by": "pull image/shop/app"},
        {**step, "status": "done", "seconds": 0.5, "pulled_bytes": 1000, "pushed_bytes": 0},
    ]


def test_notes_and_errors_are_objects_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = context("json")
    made.tell("asking Y")
    with display(made):
        made.tell("asking Z")
    notes = [{"event": "note", "message": text} for text in ("asking Y", "asking Z")]
    assert [json.loads(line) for line in errors(made).splitlines()] == notes
    assert main(["--root", str(tmp_path / "root"), "--progress", "json", "destroy"]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "error"


def test_quiet_says_nothing_but_why_a_step_failed() -> None:
    made = context("quiet")
    made.tell("asking Y")
    with display(made) as shown:
        shown.begin(str(APP), "pull")
        shown.progress(event("pulling"))
        shown.step(STEP, None)
        made.tell("asking Z")
        shown.step(STEP, result())
        shown.step(STEP, result(status="failed", outcome=None, error=RegistryError("it is down", hint="start it")))
        shown.step(STEP, result(status="blocked", outcome=None, blocked_by=STEP.id))
    assert errors(made) == "error: release volume/shop/data: it is down (start it)\n"


# What was moved


def test_the_sum_of_what_steps_moved_counts_time_once_where_they_ran_at_once() -> None:
    pulls = [
        result(outcome=Outcome(bytes_pulled=60 * MB, layers_there=2, bytes_there=9), begun=10.0, seconds=1.0),
        result(outcome=Outcome(bytes_pulled=1_200_000, layers_there=1, bytes_there=1), begun=10.5, seconds=0.9),
        result(outcome=Outcome(bytes_pushed=1_100_000, layers_mounted=1, bytes_mounted=7), begun=12.0, seconds=5.0),
        result(status="failed", outcome=None, error=HostError("no"), begun=1.0, seconds=5.0),
    ]
    moved = Moved.of(pulls)
    assert moved == Moved(61_200_000, 1_100_000, 3, 10, 1, 7, pytest.approx(1.4))
    assert moved_words(moved) == "pulled 61.2 MB in 1.4 s, pushed 1.1 MB; 3 layers already there, 1 layer mounted"
    assert moved_words(Moved()) == ""
    assert moved_words(Moved(there_layers=1)) == "1 layer already there"
    assert ending(pulls[2]) == "done in 5.0 s (1.1 MB pushed, 1 layer mounted)"
