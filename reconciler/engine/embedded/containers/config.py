"""What a container runs with, as the ``config`` object of an image has it. Holds nothing that is sensitive."""

from __future__ import annotations

import copy
from typing import Any

from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.containers.spec import StartSpec
from reconciler.oci.config import ImageConfig


def container_config(row: ContainerRow, spec: StartSpec, image: ImageConfig) -> dict[str, Any]:
    """The image's ``config`` object with what the container was given on top, as Docker's commit takes it.

    A sensitive value is left out; the image's own value of that name stays.
    """
    config: dict[str, Any] = copy.deepcopy(image.raw.get("config") or {})
    config["Env"] = _environment(spec, image, sensitive_names(row))
    if "entrypoint" in row.form:
        # A given entrypoint dropped the image's CMD, which was written for the image's own.
        config["Entrypoint"] = list(row.form["entrypoint"])
        config.pop("Cmd", None)
    if "command" in row.form:
        config["Cmd"] = list(row.form["command"])
    config["WorkingDir"] = spec.process.cwd
    if spec.process.user:
        config["User"] = spec.process.user
    if row.settings.labels:
        config["Labels"] = {**(config.get("Labels") or {}), **row.settings.labels}
    if row.settings.stop_signal != (image.stop_signal or "SIGTERM"):
        config["StopSignal"] = row.settings.stop_signal
    if row.settings.ports:
        published: dict[str, Any] = {f"{port.container_port}/{port.protocol}": {} for port in row.settings.ports}
        config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **published}
    return config


def sensitive_names(row: ContainerRow) -> frozenset[str]:
    """The environment variables of a container whose values must not be shown."""
    environment = row.form.get("environment") or {}
    return frozenset(name for name, value in environment.items() if isinstance(value, dict))


def _environment(spec: StartSpec, image: ImageConfig, sensitive: frozenset[str]) -> list[str]:
    kept = [entry for entry in spec.process.env if entry.partition("=")[0] not in sensitive]
    return kept + [entry for entry in image.env if entry.partition("=")[0] in sensitive]
