"""The rooms of the machinery, joined over one state. What only some commands need is imported at its first use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from reconciler.engine.embedded.state import State

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from reconciler.engine.embedded.containers.lifecycle import Containers
    from reconciler.engine.embedded.containers.mounts import ContainerMounts
    from reconciler.engine.embedded.host import HostSettings
    from reconciler.engine.embedded.images.intake import Images
    from reconciler.engine.embedded.images.resolve import ManifestSource
    from reconciler.engine.embedded.images.tags import Tags
    from reconciler.engine.embedded.observe import Observer
    from reconciler.engine.embedded.upkeep.recovery import Recovery
    from reconciler.engine.embedded.wiring import Wiring
    from reconciler.oci.digest import Digest
    from reconciler.runtime.runtime import Runtime

T = TypeVar("T")


class _Part(Generic[T]):
    """A property that is computed once, also when threads race for it (from 3.12 on, ``cached_property`` is not)."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Machinery, kind: type) -> T: ...
    def __get__(self, owner: Machinery | None, kind: type) -> Self | T:
        if owner is None:
            return self
        with owner.lock:
            if self._name not in owner.parts:
                owner.parts[self._name] = self._make(owner)
            part: T = owner.parts[self._name]
            return part


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
        self.lock = threading.RLock()
        self.parts: dict[str, Any] = {}
        self._fetched = fetched
        self._transfers = transfers

    @_Part
    def runtime(self) -> Runtime:
        from reconciler.runtime.runtime import Runtime

        return Runtime(self.state.run)

    @_Part
    def wiring(self) -> Wiring:
        from reconciler.engine.embedded.wiring import Wiring

        return Wiring(self.state, may_set_sysctls=self.host.may_set_sysctls)

    @_Part
    def mounts(self) -> ContainerMounts:
        from reconciler.engine.embedded.containers.mounts import ContainerMounts

        return ContainerMounts(self.state)

    @_Part
    def containers(self) -> Containers:
        from reconciler.engine.embedded.containers.lifecycle import Containers

        return Containers(self.state, self.runtime, lambda: self.wiring, self.mounts)

    @_Part
    def recovery(self) -> Recovery:
        from reconciler.engine.embedded.upkeep.recovery import Recovery

        return Recovery(self.state, self.containers, self.mounts, lambda: self.wiring)

    @_Part
    def manifests(self) -> ManifestSource:
        from reconciler.engine.embedded.images.resolve import ManifestSource

        return ManifestSource(self.state, self._fetched)

    @_Part
    def images(self) -> Images:
        from reconciler.engine.embedded.images.intake import Images

        return Images(self.state, self.manifests, self._transfers())

    @_Part
    def tags(self) -> Tags:
        from reconciler.engine.embedded.images.tags import Tags

        return Tags(self.state, self._transfers())

    @_Part
    def observer(self) -> Observer:
        from reconciler.engine.embedded.observe import Observer

        return Observer(self.state, self.containers, self.wiring)

    def close(self) -> None:
        self.state.close()
