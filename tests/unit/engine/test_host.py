"""ROOT/host.yaml as the engine reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.engine.embedded.host import HostSettings, read_host_settings
from reconciler.errors import InvalidError
from reconciler.registry.from_host.places import Places
from reconciler.store.archive.limits import DEFAULTS, Limits


def settings(root: Path, text: str) -> HostSettings:
    (root / "host.yaml").write_text(text)
    return read_host_settings(root)


def test_without_a_file_all_is_as_documented(tmp_path: Path) -> None:
    assert read_host_settings(tmp_path) == settings(tmp_path, "") == HostSettings({}, True, DEFAULTS)


def test_everything_can_be_set(tmp_path: Path) -> None:
    text = (
        "labels: {role: web}\nsysctls: leave\n"
        "limits: {layer_bytes: 1TiB, layer_entries: 5K, path_depth: 9, manifest_bytes: 64MiB}\n"
        "registries_conf: /a\ncerts_d: /b\ndaemon_json: /c\n"
    )
    wanted = Limits(layer_bytes=1 << 40, layer_entries=5000, path_depth=9, manifest_bytes=64 << 20)
    places = Places(Path("/a"), Path("/b"), Path("/c"))
    assert settings(tmp_path, text) == HostSettings({"role": "web"}, False, wanted, places)


@pytest.mark.parametrize("value", ["relative", "[/a]", "7", ""])
def test_a_place_is_an_absolute_path(tmp_path: Path, value: str) -> None:
    with pytest.raises(InvalidError, match=r"host\.yaml: certs_d is no absolute path"):
        settings(tmp_path, f"certs_d: {value}")


@pytest.mark.parametrize(
    "limits",
    ["{layer_byte: 1}", "{layer_bytes: 1GB}", "{layer_bytes: 0}", "{manifest_bytes: 65MiB}", "[1]", "none", "1"],
)
def test_a_wrong_limit_is_an_error_that_names_the_file(tmp_path: Path, limits: str) -> None:
    with pytest.raises(InvalidError, match=r"host\.yaml: limits"):
        settings(tmp_path, f"limits: {limits}")
