"""Image archives: which image of one is meant."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import cast

import pytest

from reconciler.engine.embedded.images.intake import Images
from reconciler.engine.embedded.images.load import load_archive
from reconciler.errors import InvalidError
from reconciler.testing.images import archive


class NoStore:
    """What an archive without its parts never comes to fill."""

    spool = Path("/tmp")


NO_STORE = cast(Images, NoStore())


def load(ref: str, *names: str) -> str:
    """Loads from a docker-archive of images that lack their configs; returns the error, which tells the chosen one."""
    entries = [{"Config": f"config of {name}", "RepoTags": [name], "Layers": []} for name in names]
    info, data = tarfile.TarInfo("manifest.json"), json.dumps(entries).encode()
    info.size = len(data)
    with pytest.raises(InvalidError) as caught:
        load_archive(io.BytesIO(archive([(info, data)])), ref, NO_STORE)
    return str(caught.value)


@pytest.mark.parametrize("name", ["app:1", "docker.io/library/app:1"])
@pytest.mark.parametrize("ref", ["app:1", "docker.io/app:1", "docker.io/library/app:1"])
def test_an_image_of_an_archive_is_found_under_every_spelling_of_its_name(name: str, ref: str) -> None:
    assert f"lacks 'config of {name}'" in load(ref, "other:1", name, "app:2")


def test_a_name_that_is_no_reference_is_found_as_it_is_written() -> None:
    assert "lacks 'config of NO_REFERENCE'" in load("NO_REFERENCE", "other:1", "NO_REFERENCE")


def test_a_wrong_name_is_told_the_right_ones() -> None:
    assert "has no image 'ap:1'; its names: app:1, app:2" in load("ap:1", "app:1", "app:2")
