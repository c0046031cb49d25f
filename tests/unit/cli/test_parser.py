"""The argument grammar, and what the user can cause never being a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.cli.parser import build_parser
from reconciler.errors import UsageError


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nothing",
        "plan --nothing",
        "apply --ye",
        "destroy --delete shop",
        "daemon --interval 5",
        "daemon --interval 0s",
        "daemon --interval 1.5.5s",
        "--lock-timeout nan status",
        "--lock-timeout -1 status",
        "plan -o yaml",
        "destroy",
        "destroy shop --all",
    ],
)
def test_usage_errors_exit_64(line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--root", str(tmp_path / "root"), *line.split()]) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("5m", 300), ("1h", 3600), ("500ms", 0.5), ("1.5s", 1.5)])
def test_durations(text: str, seconds: float) -> None:
    assert build_parser().parse_args(["daemon", "--interval", text]).interval == seconds


def test_options_are_never_abbreviated_in_any_command() -> None:
    with pytest.raises(UsageError):
        build_parser().parse_args(["apply", "--delete-vol"])


@pytest.mark.parametrize("line", ["container run --rm -e A=1 bb true", "container ls -a", "image ls", "plan -R ."])
def test_part_of_the_grammar_parses_as_the_whole_does(line: str) -> None:
    def parsed(*known: str) -> dict[str, object]:
        found = vars(build_parser(known).parse_args(line.split()))
        return {key: value for key, value in found.items() if key != "run"}

    assert parsed(*line.split()) == parsed()


@pytest.mark.parametrize(
    "line", ["", "container", "container rum", "container -h", "image", "images", "-h", "--root x ls"]
)
def test_part_of_the_grammar_explains_itself_as_the_whole_does(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*known: str) -> str:
        try:
            build_parser(known).parse_args(line.split())
        except UsageError as error:
            return f"{error} {error.hint}"
        except SystemExit:
            return capsys.readouterr().out
        raise AssertionError("it should not parse")

    assert said(*line.split()) == said() != ""


def test_a_system_error_is_an_error_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "host.yaml").mkdir()  # a directory cannot be read as a file
    assert main(["--root", str(tmp_path / "root"), "plan", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "host.yaml" in err


@pytest.mark.parametrize("content", [b"labels: [a]", b"sysctls: maybe", b"\xff\xfe", b"a: {", b"nothing: 1"])
def test_a_host_file_that_is_not_right_is_an_error_that_names_it(
    content: bytes, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir(mode=0o700)
    (tmp_path / "root" / "host.yaml").write_bytes(content)
    assert main(["--root", str(tmp_path / "root"), "status"]) == 1
    assert "host.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "-o", "json"], ["gc", "--plan"], ["gc", "--plan", "-o", "json"]]
)
def test_readers_of_a_root_that_is_not_there_write_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--root", str(tmp_path / "root"), *arguments]) == 0
    assert capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
