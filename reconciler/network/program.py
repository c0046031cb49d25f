"""Running the host's network programs, ip and nft: arguments and a script in, text out."""

from __future__ import annotations

import subprocess

from reconciler.errors import HostError

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_TIMEOUT = 30.0


def run(program: str, package: str, *arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
    """The program's outcome, whatever its exit code. ``package`` is where a host without it gets it from.

    It acts in the network namespace of the thread that calls it. Raises ``HostError`` when the program is missing or
    does not end.
    """
    try:
        return subprocess.run(
            [program, *arguments],
            input=script,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            timeout=_TIMEOUT,
            check=False,
            process_group=0,  # Ctrl-C is the caller's to take
        )
    except FileNotFoundError as error:
        raise HostError(f"the program {program} is missing", hint=f"install the package {package}") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{program} did not answer within {_TIMEOUT:.0f} s", hint="try again") from error
