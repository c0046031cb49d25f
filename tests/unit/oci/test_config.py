"""Image configs."""

from __future__ import annotations

import json

import pytest

from reconciler.errors import InvalidError
from reconciler.oci.config import MAX_CONFIG_BYTES, History, ImageConfig, encode_config
from reconciler.oci.digest import Digest

A = Digest.of(b"a")


def _config(**fields):
    return {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [A]}, **fields}


def test_a_config_is_read():
    inner = {"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}}}
    history = [{"created_by": "x", "author": "me"}, {"empty_layer": True, "comment": "c"}]
    config = ImageConfig.parse(encode_config(_config(config=inner, history=history, author="me")))
    assert (config.env, config.cmd, config.labels) == (("A=b",), ("sh",), {"a": "b"})
    assert (config.volumes, config.exposed_ports, config.diff_ids) == (("/v",), ("80/tcp",), (A,))
    assert config.history == (History(created_by="x", author="me"), History(empty_layer=True, comment="c"))
    assert [step.to_json() for step in config.history] == history


@pytest.mark.parametrize(
    "document",
    [
        [],
        _config(config=[1]),
        _config(config={"Env": [1]}),
        _config(config={"User": 5}),
        _config(config={"Labels": []}),
        _config(config={"Labels": {"a": 1}}),
        _config(config=0),
        _config(rootfs=None),
        _config(rootfs={"type": "layers", "diff_ids": A}),
        _config(rootfs={"type": "layers", "diff_ids": [A], "Diff_IDs": []}),
        _config(Rootfs={}),
        _config(created=1),
        _config(os="li nux"),
        _config(architecture="amd64/v1/x"),
        _config(variant=8),
        _config(rootfs={"type": "layers", "diff_ids": ["sha256:../x"]}),
        _config(history={"a": 1}),
        _config(history=[1]),
    ],
)
def test_malformed_configs(document):
    with pytest.raises(InvalidError):
        ImageConfig.parse(json.dumps(document).encode())


@pytest.mark.parametrize("rootfs", [{}, {"type": "x", "diff_ids": []}, {"diff_ids": [A]}])
def test_p53_a_root_filesystem_that_is_not_made_of_layers_is_refused(rootfs):
    with pytest.raises(InvalidError, match=r"rootfs\.type"):
        ImageConfig.parse(json.dumps(_config(rootfs=rootfs)).encode())


def test_a_config_has_a_bound():
    with pytest.raises(InvalidError, match="more than"):
        ImageConfig.parse(b" " * (MAX_CONFIG_BYTES + 1))


def test_an_old_config_may_hold_null_and_bare_text():
    config = ImageConfig.parse(encode_config(_config(config={"Cmd": "sh", "Env": None, "Labels": None}, history=None)))
    assert (config.cmd, config.env, config.labels, config.history) == (("sh",), (), {}, ())
    assert config.platform.architecture == "amd64"
