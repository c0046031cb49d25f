"""What ``store verify`` finds on a host at work, and what ``--repair`` makes good."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from reconciler.testing.host import Host
from reconciler.testing.registry_server import RegistryServer

pytestmark = pytest.mark.root


@pytest.fixture
def shop(host: Host, registry: RegistryServer) -> Host:
    """A host with a running service of ``app:1``, a volume, and an image that no container uses."""
    host.declare(
        registry.host,
        f"""\
        images: {{app: {registry.host}/app:1, spare: {registry.host}/app:2}}
        volumes: {{data: {{}}}}
        containers:
          web: {{image: app, command: [sleep, "3600"], stop_signal: SIGKILL, volumes: ["data:/data"]}}
        """,
    )
    host.apply()
    return host


def verify(host: Host, *options: str, code: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = host.run("store", "verify", "-o", "json", *options, code=code).json
    return document


def image(host: Host, name: str) -> dict[str, Any]:
    found: dict[str, Any] = host.run("image", "inspect", name).json
    return found


def images(host: Host) -> dict[str, list[str]]:
    """The layers of each recorded image by the manifest's digest, from the database itself."""
    with sqlite3.connect(host.root / "state.db") as database:
        rows = database.execute("SELECT digest, config_digest, layers FROM images").fetchall()
    return {digest: [config, *(layer[0] for layer in json.loads(layers))] for digest, config, layers in rows}


def blob(host: Host, digest: str) -> Path:
    return host.root / "blobs" / "sha256" / digest.removeprefix("sha256:")


def flip(path: Path) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_s41_every_blob_damaged_at_once_is_fetched_again(shop: Host) -> None:
    found = [blob(shop, digest) for top, parts in images(shop).items() for digest in (top, *parts)]
    for path in found:
        flip(path)
    before = verify(shop, code=1)
    assert {item["id"] for item in before["damage"]} == {f"sha256:{path.name}" for path in found}
    assert any("container shop/web" in item["needed_by"] for item in before["damage"])
    after = verify(shop, "--repair")
    assert after["clean"] and all(item["done"] for item in after["repairs"])
    assert len(list((shop.root / "quarantine").iterdir())) == len(found)
    assert verify(shop, "--layers")["clean"]
    assert verify(shop, "--repair")["repairs"] == []
    assert shop.is_converged() and shop.is_running("shop/web")


def test_s41_what_no_registry_has_is_named_and_the_next_apply_brings_it(
    shop: Host, registry: RegistryServer, tmp_path: Path
) -> None:
    (spare,) = (digest for digest in images(shop) if digest not in json.dumps(shop.container("shop/web")))
    layer = images(shop)[spare][-1]
    flip(blob(shop, layer))
    with sqlite3.connect(shop.root / "state.db") as database:
        facts = database.execute("SELECT address, form FROM facts WHERE address LIKE 'registry/%'").fetchall()
        database.execute("UPDATE facts SET form = replace(form, 'true', 'false') WHERE address LIKE 'registry/%'")
    database.close()
    report = verify(shop, "--repair", code=1)
    (repair,) = report["repairs"]
    assert repair["id"] == layer and not repair["done"]
    assert [item["code"] for item in report["damage"]] == ["missing"]
    assert "image/shop/spare" in report["damage"][0]["needed_by"]
    assert facts
    shop.apply()
    assert verify(shop)["clean"] and shop.is_converged()


def test_a_layer_below_a_running_container_waits_for_its_end(shop: Host) -> None:
    (layer,) = (path for path in (shop.root / "layers").iterdir() if path.is_dir() and _is(path, "1"))
    flip(layer / "bin" / "busybox")
    (layer / "etc" / "extra").write_text("")
    report = verify(shop, "--layers", "--repair", code=1)
    assert "shop/web" in report["repairs"][0]["text"] and not report["repairs"][0]["done"]
    assert report["damage"][0]["details"] == ["bin/busybox: content", "etc/extra: extra", "etc: modification time"]
    assert shop.is_running("shop/web")
    shop.run("container", "stop", "shop/web", "-t", "0")
    assert verify(shop, "--layers", "--repair")["clean"]
    assert not (layer / "etc" / "extra").exists()
    shop.apply()
    assert shop.is_running("shop/web")


def _is(layer: Path, version: str) -> bool:
    return (layer / "version").read_text().strip() == version


def test_s35_a_database_of_garbage_is_made_again_and_nothing_is_pruned(shop: Host) -> None:
    data = shop.root / "volumes" / "shop" / "data" / "data" / "kept"
    data.write_text("precious")
    pid, known = shop.pid("shop/web"), set(images(shop))
    (shop.root / "state.db").write_bytes(os.urandom(20000))
    for arguments in (("apply", shop.specs, "--yes"), ("gc",)):
        assert "store verify --repair" in shop.run(*arguments, code=1).err
    assert verify(shop, "--repair")["clean"]
    assert [item for item in (shop.root / "quarantine").iterdir() if item.name.startswith("database-")]
    shop.run("gc")
    assert set(images(shop)) == known and shop.pid("shop/web") == pid and data.read_text() == "precious"
    shop.apply()
    assert shop.is_converged() and shop.pid("shop/web") == pid and data.read_text() == "precious"
    assert verify(shop, "--layers")["clean"]


def test_s41_a_blob_found_damaged_on_use_is_fetched_again_at_once(shop: Host, registry: RegistryServer) -> None:
    (spare,) = (digest for digest in images(shop) if digest not in json.dumps(shop.container("shop/web")))
    (layer,) = (path for path in (shop.root / "layers").iterdir() if path.is_dir() and _is(path, "2"))
    # As if it had never been unpacked: a container will have to read the blob.
    shutil.rmtree(layer)
    with contextlib.closing(sqlite3.connect(shop.root / "state.db")) as database:
        database.execute("DELETE FROM layers WHERE chain_id = ?", (f"sha256:{layer.name}",))
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    flip(blob(shop, images(shop)[spare][-1]))
    flip(blob(shop, spare))
    shop.run("image", "tag", f"{registry.host}/app:2", f"{registry.host}/copy:2")
    shop.run("image", "push", "--plain-http", f"{registry.host}/copy:2")
    spec = shop.specs / "shop.yaml"
    spec.write_text(spec.read_text() + "  other: {image: spare, command: [cat, /version], restart: 'no'}\n")
    shop.apply()
    assert shop.output("shop/other") == "2\n"
    assert len(list((shop.root / "quarantine").iterdir())) == 2
    assert verify(shop, "--layers")["clean"]
