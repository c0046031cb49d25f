"""Running one more process in a container."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from reconciler.errors import RuntimeFailure
from reconciler.linux.rooted import Rooted
from reconciler.runtime.bundle import resolve_process, write_private
from reconciler.runtime.conmon import ENVIRONMENT, runtime_error
from reconciler.runtime.spec import ProcessSpec
from reconciler.runtime.task import Task


def execute(
    runtime: list[str],
    task: Task,
    process: ProcessSpec,
    *,
    stdin: int | None,
    stdout: int | None,
    stderr: int | None,
) -> int:
    """See ``Runtime.exec``. ``runtime`` is the OCI runtime's command line up to the subcommand."""
    # Through the process's own root its mounts are seen too; the walk still cannot leave it.
    with Rooted(f"/proc/{task.pid}/root") as root:
        if not task.init.alive():
            raise RuntimeFailure(f"container {task.id} ended", code=126)
        document = resolve_process(root, process, "", make_cwd=False)
    with tempfile.TemporaryDirectory(prefix="exec-") as directory:
        spec, log = Path(directory) / "process.json", Path(directory) / "runtime.log"
        write_private(spec, json.dumps(document))
        done = subprocess.run(
            [*runtime, f"--log={log}", "exec", "--process", str(spec), task.id],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
            check=False,
        )
        failure = runtime_error(log)
    if failure:
        raise RuntimeFailure(f"cannot run {process.args[0]!r} in container {task.id}: {failure}")
    return done.returncode
