"""The detach keys, however the typing is cut into reads."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from reconciler.runtime.terminal import DetachKeys

_TYPED = st.lists(st.sampled_from([b"\x10", b"\x11", b"a"]), max_size=12).map(b"".join)


@given(_TYPED, st.lists(st.integers(0, 12), max_size=4))
def test_the_sequence_is_found_wherever_it_is_cut(typed, cuts):
    keys, passed = DetachKeys(), b""
    borders = [0, *sorted(min(cut, len(typed)) for cut in cuts), len(typed)]
    for start, end in pairwise(borders):
        forward, detached = keys.feed(typed[start:end])
        passed += forward
        if detached:
            assert passed == typed[: typed.index(b"\x10\x11")]
            return
    assert b"\x10\x11" not in typed
    assert passed == (typed[:-1] if typed.endswith(b"\x10") else typed)
