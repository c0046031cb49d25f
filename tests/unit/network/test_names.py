"""Names of kernel objects."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from reconciler.network import names


@given(st.text(), st.text(), st.text())
def test_interface_names_fit_the_kernel_and_tell_their_root(root: str, network: str, container: str) -> None:
    for name in (names.bridge(root, network), names.endpoint(root, network, container)):
        assert re.fullmatch(r"rc[a-z2-7]{5}[bv][a-z2-7]{7}", name)
        assert name.startswith(names.root_prefix(root))
    assert re.fullmatch(r"reconciler_[a-z2-7]{12}", names.table(root))


def test_roots_networks_and_containers_have_names_of_their_own() -> None:
    made = {names.endpoint(root, network, box) for root in "rs" for network in "ab" for box in "xy"}
    made |= {names.bridge(root, network) for root in "rs" for network in "ab"}
    assert len(made) == 12
    assert names.table("r") != names.table("s")
    assert names.alias("r") != names.alias("s")
