"""Argument lists and environments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.runtime.process import assemble_args, assemble_environment, complete_environment, search_path


@pytest.mark.parametrize(
    ("image_entrypoint", "image_cmd", "entrypoint", "command", "expected"),
    [
        ((), ("sh",), None, None, ("sh",)),
        (("nginx",), (), None, None, ("nginx",)),
        (("nginx",), ("-g",), None, None, ("nginx", "-g")),
        (("nginx",), ("-g",), None, ("-t",), ("nginx", "-t")),
        (("nginx",), ("-g",), None, (), ("nginx",)),
    ],
)
def test_x10_entrypoint_and_cmd(image_entrypoint, image_cmd, entrypoint, command, expected):
    assert assemble_args(image_entrypoint, image_cmd, entrypoint, command) == expected


def test_x11_a_given_entrypoint_drops_the_images_cmd():
    assert assemble_args(("nginx",), ("-g",), ("sh",), None) == ("sh",)
    assert assemble_args(("nginx",), ("-g",), ("sh",), ("-c", "x")) == ("sh", "-c", "x")
    assert assemble_args(("nginx",), ("-g",), (), ("date",)) == ("date",)


@pytest.mark.parametrize("args", [(), ("",), ("a", "b\0c")])
def test_nothing_to_run(args):
    with pytest.raises(InvalidError):
        assemble_args((), (), None, args)


def test_x40_values_are_kept_byte_for_byte():
    env, dropped = assemble_environment(["A=1"], [("B", "x\ny=ü "), ("C", ""), ("A", "2")])
    assert env == ("A=2", "B=x\ny=ü ", "C=")
    assert dropped == ()


@pytest.mark.parametrize("pair", [("A", "x\0"), ("A\0", "x"), ("", "x"), ("A=B", "x")])
def test_x40_nul_and_bad_names_are_refused(pair):
    with pytest.raises(InvalidError):
        assemble_environment([], [pair])


def test_x55_entries_that_ask_for_our_environment_are_dropped():
    env, dropped = assemble_environment(["HOME", "AWS_*", "PATH=/bin", "B*=x", "=y"], [])
    assert env == ("PATH=/bin",)
    assert dropped == ("HOME", "AWS_*", "B*", "")


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda t: not set(t) & {"=", "\0"}), st.text().map(lambda t: t.replace("\0", ""))
    )
)
def test_overrides_always_win(overrides):
    env, _ = assemble_environment([f"{name}=image" for name in overrides], overrides.items())
    assert dict(entry.split("=", 1) for entry in env) == overrides


def test_defaults_yield_to_what_is_given():
    assert complete_environment(["HOME=/x"], home="/root", hostname="web", terminal=True)[1:] == (
        "HOSTNAME=web",
        "TERM=xterm",
        "HOME=/x",
    )
    assert not any(e.startswith("TERM=") for e in complete_environment([], home="/", hostname="web", terminal=False))


def test_an_empty_place_in_path_is_the_working_directory():
    assert search_path(["PATH=/bin::/x"]) == ("/bin", ".", "/x")
    assert "/usr/bin" in search_path([])
