"""``reconciler container run`` and ``start``: from an image to output on this terminal and an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from reconciler.cli.container_request import requested
from reconciler.cli.context import Context
from reconciler.engine.embedded.containers.adhoc import create_adhoc, ensure_networks
from reconciler.engine.embedded.containers.rows import ContainerRow, find_container
from reconciler.engine.embedded.images.lookup import find_image
from reconciler.errors import LockedError, NotFoundError, ReconcilerError, RuntimeFailure, UsageError
from reconciler.model.address import Address
from reconciler.model.resources import Pull
from reconciler.oci.digest import Digest
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference

if TYPE_CHECKING:
    from reconciler.engine.embedded.engine import EmbeddedEngine
    from reconciler.engine.embedded.machinery import Machinery
    from reconciler.runtime.terminal import Attachment

FAILED = 125
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE = 3


def run(context: Context, options: argparse.Namespace) -> int:
    """The container's own exit code, or 0 when detached. 125: we could not run it; 126 and 127: its program cannot."""
    terminal, stdin = options.tty, options.interactive
    if terminal and stdin and not options.detach and not sys.stdin.isatty():
        raise UsageError("-t needs a terminal on standard input", hint="leave out -t")
    if options.rm and options.detach:
        raise UsageError("--rm needs somebody to wait for the end: not with -d", hint="remove it with container rm -f")
    with exit_codes(), context.engine() as engine:
        container = requested(options, context.environment)
        with engine.turn(context.lock_timeout):
            image = _image(context, engine, options)
            row = create_adhoc(engine.writer(), container, image, name=options.name, terminal=terminal, stdin=stdin)
            with ExitStack() as undo:
                undo.callback(engine.writer().containers.remove, row)
                attachment = _launch(engine.writer(), row, attach=not options.detach)
                undo.pop_all()
        if attachment is None:
            context.print(row.id)
            return 0
        code = _attend(context, engine, row, attachment, stdin=stdin)
        if code is None:
            return 0
        _settle(context, engine, row, remove=options.rm)
        return code


def start(context: Context, options: argparse.Namespace) -> int:
    """Starts containers. With ``-a`` or ``-i`` one alone, whose exit code it gives."""
    attached = options.attach or options.interactive
    if attached and len(options.names) > 1:
        raise UsageError("only one container can be attached to", hint="start the others without -a and -i")
    with context.engine() as engine:
        attachment = None
        with engine.turn(context.lock_timeout):
            machinery = engine.writer()
            rows = [find_container(machinery.state.containers.all(), name) for name in options.names]
            for row in rows:
                ensure_networks(machinery, tuple(Address.parse(text) for text in row.settings.networks))
                attachment = _launch(machinery, row, attach=attached)
                if not attached:
                    context.print(row.shown)
        if attachment is None:
            return 0
        with exit_codes():
            code = _attend(context, engine, rows[0], attachment, stdin=options.interactive)
            if code is None:
                return 0
            _settle(context, engine, rows[0], remove=False)
            return code


def _image(context: Context, engine: EmbeddedEngine, options: argparse.Namespace) -> Digest:
    state = engine.writer().state
    platform = Platform.parse(options.platform) if options.platform else None
    if options.pull != "always":
        try:
            found = find_image(state, options.image)
        except NotFoundError:
            if options.pull == "never":
                raise
        else:
            if platform is None or platform.runs(found.record.platform):
                return found.record.digest
    from reconciler.cli.image_transfer import pull_by_hand

    reference = Reference.parse(options.image)
    context.tell(f"Pulling {reference.familiar}")
    wanted = Pull(reference, "always", platform)
    pulled, doubt = pull_by_hand(context, engine, wanted, plain_http=options.plain_http)
    if doubt:
        context.tell(doubt)
    return pulled.record.digest


def _launch(machinery: Machinery, row: ContainerRow, *, attach: bool) -> Attachment | None:
    """Starts the program, attached before its first output. One that runs already is only attached to."""
    machinery.containers.prepare(row)
    attachment = machinery.runtime.attach(row.id) if attach else None
    try:
        if attachment is not None and row.settings.terminal and sys.stdin.isatty():
            size = os.get_terminal_size(sys.stdin.fileno())
            attachment.resize(size.lines, size.columns)
        machinery.containers.release(machinery.state.containers.get(row.id))
    except BaseException:
        if attachment is not None:
            attachment.close()
        raise
    return attachment


def _attend(
    context: Context, engine: EmbeddedEngine, row: ContainerRow, attachment: Attachment, *, stdin: bool
) -> int | None:
    """Passes streams and signals until the container has ended; its exit code, or None when the user detached.

    Holds no turn: others may write meanwhile, and may record the end before we do.
    """
    runtime = engine.view().runtime
    context.stdout.flush()
    with attachment, _forwarding(engine, row):
        end = attachment.relay(
            0 if stdin else None, 1, 2, terminal=row.settings.terminal and stdin and sys.stdin.isatty()
        )
        if end == "detached":
            return None
        found = runtime.wait(row.id)
    code = found.exit_code
    if code is None:
        code = engine.view().state.containers.get(row.id).exit_code
    if code is None:
        raise RuntimeFailure(f"nobody can tell how container {row.shown} ended", hint="see: container logs")
    return code


@contextmanager
def _forwarding(engine: EmbeddedEngine, row: ContainerRow) -> Iterator[None]:
    """Signals to us go to the container. Whoever insists on ending us, ends us: the container runs on.

    A container with a terminal gets its signals through that; when ours goes away, we end and it runs on.
    """
    if row.settings.terminal:
        yield
        return
    runtime = engine.view().runtime
    impatience = 0

    def forward(number: int, _frame: FrameType | None) -> None:
        nonlocal impatience
        if number in (signal.SIGINT, signal.SIGTERM):
            impatience += 1
            if impatience > _PATIENCE:
                raise KeyboardInterrupt
        runtime.kill(row.id, number)

    previous = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _settle(context: Context, engine: EmbeddedEngine, row: ContainerRow, *, remove: bool) -> None:
    """Records the end, clears away what the container had while it ran, and removes it if asked to."""
    try:
        with engine.turn(context.lock_timeout):  # which records the end of whatever has ended
            if remove:
                machinery = engine.writer()
                machinery.containers.remove(machinery.state.containers.get(row.id))
    except NotFoundError:
        pass  # somebody removed it meanwhile
    except LockedError as error:
        if remove:
            context.note(f"warning: {row.shown} was not removed: {error}")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Gives errors the exit codes that ``container run`` has for them."""
    try:
        yield
    except UsageError:
        raise
    except ReconcilerError as error:
        error.exit_code = error.code if isinstance(error, RuntimeFailure) else FAILED
        raise
