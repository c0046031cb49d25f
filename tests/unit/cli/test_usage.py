"""What a wrong command line is told."""

from __future__ import annotations

import pytest

from reconciler.cli.parser import build_parser
from reconciler.errors import UsageError


@pytest.mark.parametrize(
    ("line", "told", "usage"),
    [
        ("container run --bogus app", "reconciler container run: unrecognized arguments: --bogus", "IMAGE ..."),
        ("container commit -x X web app:1", "reconciler container commit: unrecognized arguments", "[-a NAME]"),
        ("gc --now", "reconciler gc: unrecognized arguments: --now", "[--plan]"),
        ("--bogus status", "reconciler: ", "COMMAND ..."),
    ],
)
def test_a_wrong_argument_is_told_with_the_usage_of_its_command(line: str, told: str, usage: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_parser().parse_args(line.split())
    assert told in str(caught.value)
    assert usage in caught.value.hint


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("image rmi app", "write reconciler image rm"),
        ("image images", "write reconciler image ls"),
        ("image lss", "did you mean ls?"),
        ("image prune", "reconciler gc frees what nothing needs"),
        ("image build .", "there are: ls, history,"),
        ("images", "write reconciler image ls"),
        ("pull app", "write reconciler image pull"),
        ("ps", "write reconciler container ls"),
        ("container ps", "write reconciler container ls"),
        ("up", "write reconciler apply"),
        ("aply", "did you mean apply?"),
        ("frobnicate", "there are: validate, plan,"),
    ],
)
def test_a_command_that_is_not_there_is_told_the_one_that_was_meant(line: str, hint: str) -> None:
    with pytest.raises(UsageError, match="has no command") as caught:
        build_parser(line.split()).parse_args(line.split())
    assert caught.value.hint.startswith(hint)
