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
