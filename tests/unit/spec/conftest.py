"""Loading specs from text, as the tests of this room need it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.desired import Desired
from reconciler.model.resources import Container
from reconciler.spec.errors import SpecError
from reconciler.spec.load import load_specs

HEAD = "apiVersion: reconciler/v1\nstack: shop\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


Load = Callable[..., Desired]
Refuse = Callable[..., str]


@pytest.fixture
def load(here: Path) -> Load:
    """Loads one spec; the head (two lines) is added unless ``head`` is false."""

    def run(body: str, *, head: bool = True, **options: Any) -> Desired:
        (here / "a.yaml").write_text((HEAD if head else "") + textwrap.dedent(body))
        return load_specs(["a.yaml"], **options)

    return run


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """Loads one spec that must be refused, and gives what is printed."""

    def run(body: str, **options: Any) -> str:
        with pytest.raises(SpecError) as caught:
            load(body, **options)
        return str(caught.value)

    return run


@pytest.fixture
def web(load: Load) -> Callable[..., Container]:
    """The container made of these fields."""

    def run(fields: str, rest: str = "", **options: Any) -> Container:
        body = "containers:\n  web:\n    image: nginx\n" + textwrap.indent(textwrap.dedent(fields), "    ")
        desired = load(body + "\n" + textwrap.dedent(rest), **options)
        (found,) = (r for a, r in desired.resources.items() if str(a) == "container/shop/web")
        assert isinstance(found, Container)
        return found

    return run


@pytest.fixture
def refuse_web(refuse: Refuse) -> Refuse:
    """What is printed about a container with these fields."""

    def run(fields: str, rest: str = "", **options: Any) -> str:
        body = "containers:\n  web:\n    image: nginx\n" + textwrap.indent(textwrap.dedent(fields), "    ")
        return refuse(body + "\n" + textwrap.dedent(rest), **options)

    return run
