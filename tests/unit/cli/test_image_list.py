"""What `image ls` adds up and picks out. No root needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.engine.embedded.images.listing import list_images
from reconciler.engine.embedded.images.lookup import shown_name, split_name
from reconciler.engine.embedded.state import SCHEMAS, WriterState
from reconciler.oci import media
from reconciler.oci.descriptor import Descriptor
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.store.database import WritableDatabase
from reconciler.store.identity import claim_identity
from reconciler.store.images import ImageRecord, LayerRecord, Name


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WriterState]:
    root = tmp_path / "root"
    root.mkdir(0o700)
    opened = WriterState(claim_identity(root, run=tmp_path / "run"), WritableDatabase(root, SCHEMAS))
    yield opened
    opened.close()


def add(state: WriterState, seed: str, *layers: str, name: str = "", unpacked: int = 99) -> ImageRecord:
    """An image with a config of its own, and layers of ten bytes that come to 1,000 unpacked."""
    config = state.content.put(b"config " + seed.encode())
    parts = [
        LayerRecord(state.content.put(text.ljust(10).encode()), 10, media.OCI_LAYER, Digest.of(text.encode()))
        for text in layers
    ]
    digest = state.content.put(b"manifest " + seed.encode())
    size = 5 + 7 + 10 * len(parts)
    image = ImageRecord(
        digest,
        media.OCI_MANIFEST,
        Descriptor(media.OCI_CONFIG, config, 7),
        tuple(parts),
        None,
        Platform("linux", "amd64"),
        size,
        "",
        f"2026-01-01T00:00:0{len(state.images.list())}Z",
    )
    state.images.add(image)
    with state.database.transaction() as connection:
        parents = (None, *image.chain_ids)
        for chain, parent, layer in list(zip(image.chain_ids, parents, image.layers, strict=False))[:unpacked]:
            connection.execute(
                "INSERT OR IGNORE INTO layers (chain_id, parent, diff_id, size, entries) VALUES (?, ?, ?, 1000, 1)",
                (chain, parent, layer.diff_id),
            )
    if name:
        state.names.set(Name(str(Reference.parse(name)), digest, "", "tag"))
    return image


def listed(state: WriterState) -> dict[str, tuple[int, int]]:
    state.close_pass()
    return {image.digest: (image.size, image.unique) for image in list_images(state.root, sizes=True)}


def test_what_an_image_takes_and_what_its_removal_frees(state: WriterState) -> None:
    one = add(state, "one", "base", "a")
    two = add(state, "two", "base", "b")
    three = add(state, "three", "b", "base")
    assert listed(state) == {
        one.digest: (12 + 20 + 2000, 12 + 10 + 1000),
        two.digest: (12 + 20 + 2000, 12 + 1000),  # three has the same layer lowest: the bytes fetched, not the unpacked
        three.digest: (12 + 20 + 2000, 12 + 2000),
    }


def test_a_layer_that_is_not_unpacked_takes_what_was_fetched(state: WriterState) -> None:
    image = add(state, "one", "base", "a", "b", unpacked=1)
    assert listed(state) == {image.digest: (12 + 30 + 1000, 12 + 30 + 1000)}


def test_an_image_that_has_a_layer_twice_takes_it_once(state: WriterState) -> None:
    image = add(state, "one", "base", "base")
    assert listed(state) == {image.digest: (12 + 10 + 2000, 12 + 10 + 2000)}


def run(state: WriterState, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    state.close_pass()
    assert main(["--root", str(state.root), "image", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((), ["<none>", "app", "app", "example.com/x/y", "localhost/z"]),
        (("app",), ["app", "app"]),
        (("app:1",), ["app"]),
        (("docker.io/library/app*",), ["app", "app"]),
        (("example.com/*", "localhost/z"), ["example.com/x/y", "localhost/z"]),
        (("-f", "dangling=true"), ["<none>"]),
        (("-f", "dangling=false", "app:2"), ["app"]),
        (("-f", "reference=*/x/y"), ["example.com/x/y"]),
        (("nothing",), []),
    ],
)
def test_names_are_picked_by_pattern(
    state: WriterState, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], names: list[str]
) -> None:
    for number, name in enumerate(["app:1", "app:2", "example.com/x/y:1", "localhost/z", ""]):
        add(state, str(number), "base", name=name)
    found = json.loads(run(state, capsys, "ls", "-o", "json", *arguments))
    assert sorted(item["repository"] for item in found) == names


def test_ids_alone_are_told_once_and_whole_on_request(state: WriterState, capsys: pytest.CaptureFixture[str]) -> None:
    image = add(state, "one", "base", name="app:1")
    state.names.set(Name("docker.io/library/app:2", image.digest, "", "tag"))
    assert run(state, capsys, "ls", "-q") == f"{image.digest.short}\n"
    assert run(state, capsys, "ls", "-q", "--no-trunc") == f"{image.digest}\n"
    assert run(state, capsys, "ls", "-q", "app:9") == ""


def test_an_unknown_filter_is_refused(state: WriterState, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(state.root), "image", "ls", "-f", "dangling=perhaps"]) == 64
    assert "dangling=true" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "app",
        "app:1",
        "a/b:1",
        "localhost",
        "localhost/a",
        "x.io/a:1",
        "docker.io/a/b/c",
        "library/a/b",
        "docker.io/localhost/a",
        "docker.io/a.b/c",
        "a.b",
        "library",
        "x:5000/a:b",
        f"docker.io/{'0' * 64}",
    ],
)
def test_a_name_is_split_as_it_is_shown(text: str) -> None:
    reference = Reference.parse(text)
    repository, tag = split_name(str(reference), "tag")
    assert f"{repository}:{tag}" == shown_name(Name(str(reference), Digest.of(b""), "", "tag"))
    pinned = reference.with_digest(Digest.of(b"x"))
    assert split_name(str(pinned), "tag") == (pinned.familiar.partition("@")[0], "")
