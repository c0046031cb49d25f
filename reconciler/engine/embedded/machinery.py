"""The rooms of the machinery, joined over one state. What only some commands need is imported at its first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from reconciler.engine.embedded.container_mounts import ContainerMounts
from reconciler.engine.embedded.containers import Containers
from reconciler.engine.embedded.host import HostSettings
from reconciler.engine.embedded.recovery import Recovery
from reconciler.engine.embedded.state import State
from reconciler.engine.embedded.wiring import Wiring
from reconciler.oci.digest import Digest
from reconciler.runtime.runtime import Runtime

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from reconciler.engine.embedded.images import Images
    from reconciler.engine.embedded.observe import Observer
    from reconciler.engine.embedded.resolve import ManifestSource
    from reconciler.engine.embedded.tags import Tags


class Machinery:
    """One root's store, runtime and network.

    ``fetched`` are manifests that this process got from registries, ``transfers`` gives what blobs are moved by.
    """

    def __init__(
        self, state: State, host: HostSettings, fetched: dict[Digest, bytes], transfers: Callable[[], Executor]
    ) -> None:
        self.state = state
        self.host = host
        state.layers.limits = host.limits
        self.runtime = Runtime(state.run)
        self.wiring = Wiring(state, may_set_sysctls=host.may_set_sysctls)
        mounts = ContainerMounts(state)
        self.containers = Containers(state, self.runtime, self.wiring, mounts)
        self.recovery = Recovery(state, self.containers, mounts, self.wiring)
        self._fetched = fetched
        self._transfers = transfers

    @cached_property
    def manifests(self) -> ManifestSource:
        from reconciler.engine.embedded.resolve import ManifestSource

        return ManifestSource(self.state, self._fetched)

    @cached_property
    def images(self) -> Images:
        from reconciler.engine.embedded.images import Images

        return Images(self.state, self.manifests, self._transfers())

    @cached_property
    def tags(self) -> Tags:
        from reconciler.engine.embedded.tags import Tags

        return Tags(self.state, self._transfers())

    @cached_property
    def observer(self) -> Observer:
        from reconciler.engine.embedded.observe import Observer

        return Observer(self.state, self.containers, self.wiring)

    def close(self) -> None:
        self.state.close()
