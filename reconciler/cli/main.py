"""The entry point: parses, dispatches, and turns every outcome into an exit code."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from types import FrameType

from reconciler import log
from reconciler.cli.context import Context, from_process
from reconciler.cli.parser import build_parser
from reconciler.errors import HostError, ReconcilerError, UsageError
from reconciler.printable import printable

SIGINT_CODE = 130
SIGTERM_CODE = 143


class Terminated(BaseException):
    """SIGTERM arrived outside a command that handles it itself."""


def entry() -> None:
    """The console script."""
    _open_standard_streams()
    # A short command makes many objects and hardly any garbage: looking for it took a tenth of the time.
    gc.set_threshold(50_000)
    # What others install beside us must not change how specs are read; and looking for it takes time.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(main(sys.argv[1:]))


def _open_standard_streams() -> None:
    """Makes stdin, stdout and stderr something, however this process was started, and fit for any text."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file opened would get the number, and what goes to stderr would go into the database.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, ("stdin", "stdout", "stderr")[descriptor], os.fdopen(descriptor, "w" if descriptor else "r"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code (the README has the table). Never raises for what a user can cause."""
    context: Context | None = None
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        options = build_parser(arguments).parse_args(arguments)
        log.configure(level=options.log_level, format=options.log_format, color=sys.stderr.isatty())
        context = from_process(options.root, options.lock_timeout, options.progress)
        code: int = options.run(context, options)
        sys.stdout.flush()
        return code
    except ReconcilerError as error:
        _complain(error, context)
        return error.exit_code
    except KeyboardInterrupt:
        return SIGINT_CODE
    except Terminated:
        return SIGTERM_CODE
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        _complain(HostError(f"{error.filename or 'the system'}: {error.strerror or error}", hint=_hint(error)), context)
        return HostError.exit_code
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the interpreter's signature
    raise Terminated


def _hint(error: OSError) -> str:
    return "run as root" if isinstance(error, PermissionError) and os.geteuid() != 0 else ""


def _complain(error: ReconcilerError, context: Context | None) -> None:
    if context is not None and context.progress == "json":
        import json

        sys.stderr.write(json.dumps({"event": "error", "message": str(error), "hint": error.hint}) + "\n")
        return
    text = printable(str(error), keep="\n")
    sys.stderr.write(f"error: {text}\n")
    if error.hint:
        sys.stderr.write(f"  hint: {printable(error.hint)}\n")
    if isinstance(error, UsageError):
        sys.stderr.write("  see: reconciler --help\n")
