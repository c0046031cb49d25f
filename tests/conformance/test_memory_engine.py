"""The reference engine keeps the promises of the port."""

from __future__ import annotations

import pytest

from reconciler.clock import ManualClock
from reconciler.engine.memory import MemoryEngine
from reconciler.model.address import Address
from reconciler.testing.conformance_engine import EngineConformance, Harness


class TestMemoryEngine(EngineConformance):
    @pytest.fixture
    def harness(self) -> Harness:
        clock = ManualClock()
        engine = MemoryEngine(clock=clock)
        engine.exit_codes[Address("container", "shop/bad")] = 3
        for reference in ("app:1", "app:2"):
            engine.registry.publish(reference)
        return Harness(
            engine, ("app:1", "app:2"), succeeds={"restart": "no"}, fails={"restart": "no"}, later=clock.advance
        )
