"""What all tests share."""

from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("long", max_examples=600)

_SAID = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seed", type=int, help="makes one case of a fuzzer again, by the seed that it printed")


@pytest.fixture(scope="session")
def long_run(pytestconfig: pytest.Config) -> bool:
    """Whether everything is to be tried, however long it takes: ``--hypothesis-profile=long``."""
    return pytestconfig.getoption("--hypothesis-profile") == "long"


@pytest.fixture
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Prints at the end of the run, whether the test passed or not: how much was tried."""
    return pytestconfig.stash.setdefault(_SAID, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_SAID, [])
    if lines:
        terminalreporter.section("what was tried")
        for line in lines:
            terminalreporter.write_line(line)
