"""How a plan writes values."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.plan.words import value


@pytest.mark.parametrize(
    ("path", "content", "shown"),
    [
        ("mem_limit", 256 << 20, "256m"),
        ("mem_limit", 3 << 29, "1536m"),
        ("mem_limit", 8_000_001, "8000001"),
        ("stop_grace_period", 10.0, "10s"),
        ("stop_grace_period", 0.5, "0.5s"),
        ("secrets[db].mode", 0o400, "0400"),
        ("environment.mode", "256", '"256"'),
        ("init", True, "true"),
        ("ports", [{"container_port": 80}], "80"),
        ("ports", [{"container_port": 80, "host_port": 8080, "protocol": "udp"}], "8080:80/udp"),
        ("ports", [{"container_port": 80, "host_address": "127.0.0.1"}], "127.0.0.1::80"),
        ("ports", [{"container_port": 80, "host_port": 81, "host_address": "::1"}], "[::1]:81:80"),
        ("configs[m]", {"name": "m", "target": "/etc/m", "content": "a\nb"}, 'at /etc/m: "a\\nb"'),
        (
            "secrets[db]",
            {"name": "db", "target": "/run/secrets/db", "content": "(sensitive)", "mode": 0o400, "uid": 7},
            "at /run/secrets/db, uid 7, mode 0400: (sensitive)",
        ),
    ],
)
def test_a_value_is_written_as_in_a_spec(path: str, content: Any, shown: str) -> None:
    assert value(path, content) == shown
