"""The nft command: scripts in, its JSON out."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from reconciler.errors import ConflictError, HostError
from reconciler.network.program import run

_MISSING = "No such file or directory"
_EXISTS = "File exists"


def change(script: str) -> None:
    """Carries out a script wholly or not at all.

    Raises ``ConflictError`` when it adds a key that is there with another value, ``HostError`` when nft fails.
    """
    result = _run("-f", "-", script=script)
    if result.returncode == 0:
        return
    if _EXISTS in result.stderr:
        raise ConflictError(
            f"a port is already published by another container: {_first_line(result.stderr)}",
            hint="publish one of the two on another port or address",
        )
    raise _failure(result)


def listing(*what: str) -> list[dict[str, Any]]:
    """What ``nft -j list`` says of ``what``: one object per table, chain, rule, set or map. Empty when there is none.

    Writes nothing. Raises ``HostError``.
    """
    result = _run("-j", "list", *what)
    if result.returncode == 0:
        return [item for item in json.loads(result.stdout)["nftables"] if "metainfo" not in item]
    if _MISSING in result.stderr:
        return []
    raise _failure(result)


def elements(entry: dict[str, Any]) -> frozenset[str]:
    """The elements of a listed set or map in the words of a script, such as ``tcp . 80 : 10.0.0.2 . 80``."""
    return frozenset(map(_words, entry.get("elem", ())))


def _words(element: Any) -> str:
    if isinstance(element, list):
        return " : ".join(map(_words, element))
    if isinstance(element, dict):
        if "concat" in element:
            return " . ".join(map(_words, element["concat"]))
        if "prefix" in element:
            return f"{element['prefix']['addr']}/{element['prefix']['len']}"
    return str(element)


def _run(*arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
    return run("nft", "nftables", *arguments, script=script)


def _failure(result: subprocess.CompletedProcess[str]) -> HostError:
    return HostError(
        f"nft failed: {_first_line(result.stderr)}", hint="run as root, on a kernel with nf_tables and NAT"
    )


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line), "no message")
