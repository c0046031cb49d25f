"""What all tests share."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from reconciler.testing.leaks import find_leaks
from reconciler.testing.recorded import ROLL

settings.register_profile("long", max_examples=600)

_SAID = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seed", type=int, help="makes one case of a fuzzer again, by the seed that it printed")


@pytest.fixture(scope="session", autouse=True)
def servers_are_recorded() -> Iterator[None]:
    """What servers of ``reconciler.testing`` are asked is kept; the last of it is looked through at the end."""
    ROLL.is_kept = True
    yield
    assert find_leaks(ROLL.news()) == []


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """After every test: no login, token, cookie or client certificate reached a server but its own."""
    yield
    assert find_leaks(ROLL.news()) == []


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
