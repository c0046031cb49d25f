"""``reconciler update``: what the pins in specs would say now, and writing it there."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.cli.context import Context
from reconciler.cli.specs import host_labels, load_desired
from reconciler.errors import NotFoundError, ReconcilerError, RegistryError, UsageError
from reconciler.printable import printable
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.tag_pick import Latest
    from reconciler.model.desired import Desired
    from reconciler.model.facts import Absent, Unknown
    from reconciler.model.resources import Pull
    from reconciler.spec.pulls import PullText
    from reconciler.spec.stacks import Document
    from reconciler.spec.tree import SpecFile

PARTLY = 4
_TOLD = {"kept": "kept", "failed": "failed"}
_DIGEST = re.compile(r"(@sha256:[0-9a-f]{12})[0-9a-f]+")


@dataclass(slots=True, eq=False)
class Finding:
    """One reference in a spec: what it would say now, and why; or the error for which nobody can tell, or write it.

    ``kept`` when it stays without being what a pin would say now: what is there is too young, or may not be asked for.
    """

    text: PullText
    wanted: str
    why: str = ""
    error: ReconcilerError | None = None
    kept: bool = False
    written: bool = False

    @property
    def changes(self) -> bool:
        return self.error is None and self.wanted != self.text.text

    @property
    def status(self) -> str:
        if self.error is not None:
            return "failed"
        if self.kept:
            return "kept"
        return "written" if self.written else "outdated" if self.changes else "current"


def run(context: Context, options: argparse.Namespace) -> int:
    """Exits 0, also when there is something to write; 1 when something failed, 4 when something else was written."""
    from reconciler.spec.pulls import pull_texts

    if options.diff and options.output != "text":
        raise UsageError("--diff prints a patch, and --output another form")
    documents: list[Document] = []
    desired = load_desired(context, options, secrets=False, documents=documents)
    chosen = _chosen(context, options, documents)
    texts = [text for text in pull_texts(chosen, desired) if text.moves]
    findings = _look(context, desired, texts, keep=options.write)
    files = _carry_out(findings, write=options.write)
    if options.output == "json":
        context.print(json.dumps(_document(findings), indent=2))
    elif options.diff:
        _print_patches(context, findings, files)
    else:
        context.print("\n".join(_text(findings, options)))
    for finding in findings:
        if finding.error is not None:
            hint = f"\n  hint: {finding.error.hint}" if finding.error.hint else ""
            place = f"{finding.text.location}: {_short(str(finding.text.address))}"
            context.note(printable(f"error: {place}: {finding.error}{hint}", keep="\n"))
    failed = any(finding.error is not None for finding in findings)
    return (PARTLY if any(finding.written for finding in findings) else 1) if failed else 0


def _chosen(context: Context, options: argparse.Namespace, documents: Sequence[Document]) -> list[Document]:
    from reconciler.spec.resolve import is_for

    labels = host_labels(context, options.label)
    for document in documents:
        if not is_for(document, labels):
            place = document.at(("hosts",), key=True)
            context.note(printable(f"{place}: this is for other hosts, and left alone; --label says what a host is"))
    return [document for document in documents if is_for(document, labels)]


def _look(context: Context, desired: Desired, texts: Sequence[PullText], *, keep: bool) -> list[Finding]:
    """What each would say. With ``keep``, when tags were first seen is noted in the root, where age matters."""
    from reconciler.engine.embedded.images.latest import latest_of, note_sightings
    from reconciler.engine.embedded.images.track import Sightings
    from reconciler.engine.port import HostFacts
    from reconciler.plan.interest import host_facts

    sightings: Sightings = {}
    with context.engine() as engine:
        if desired.from_host:
            desired = desired.with_host_mirrors(engine.host_mirrors())
        hosts = HostFacts(*host_facts(desired))
        answers = latest_of(engine, (text.pull for text in texts), hosts, sightings)
        if keep and sightings:
            try:
                note_sightings(engine, sightings, context.lock_timeout)
            except (ReconcilerError, OSError) as error:
                told = f"when tags were first seen is not noted, so none comes of age here: {error}"
                context.note(printable(f"warning: {told}"))
    return _findings(texts, answers)


def _findings(texts: Sequence[PullText], answers: Mapping[Pull, Latest | Absent | Unknown]) -> list[Finding]:
    from reconciler.model.facts import Absent, Unknown
    from reconciler.spec.pulls import obstacles, repinned

    findings = []
    for text in texts:
        answer = answers[text.pull]
        if isinstance(answer, Absent):
            hint = answer.hint or "check the name, and what `track` asks for"
            findings.append(Finding(text, text.text, error=NotFoundError(answer.reason, hint=hint)))
        elif isinstance(answer, Unknown):
            hint = answer.hint or "see that its registry answers, then try again"
            findings.append(Finding(text, text.text, error=RegistryError(answer.reason, hint=hint)))
        else:
            wanted = text.text if answer.digest is None else repinned(text.text, answer.tag, answer.digest)
            findings.append(Finding(text, wanted, answer.why, kept=answer.digest is None))
    refused = obstacles({finding.text: finding.wanted for finding in findings})
    for finding in findings:
        finding.error = finding.error or refused.get(finding.text)
    return findings


def _carry_out(findings: Sequence[Finding], *, write: bool) -> list[tuple[SpecFile, bytes]]:
    """Edits the files, each as a whole, and with ``write`` puts them back; a file that cannot be is left as it is."""
    from reconciler.source.rewrite import rewrite
    from reconciler.spec.edit import edited

    changed = [finding for finding in findings if finding.changes]
    done = []
    for file in dict.fromkeys(finding.text.document.file for finding in changed):
        here = [finding for finding in changed if finding.text.document.file is file]
        try:
            data = edited(file.path, file.data, {finding.text.node: finding.wanted for finding in here})
            if write:
                rewrite(file, data)
        except ReconcilerError as error:
            for finding in here:
                finding.error = error
            continue
        for finding in here:
            finding.written = write
        done.append((file, data))
    return done


def _print_patches(context: Context, findings: Sequence[Finding], files: Sequence[tuple[SpecFile, bytes]]) -> None:
    from reconciler.cli.patch import patch
    from reconciler.source.rewrite import place_of

    for finding in findings:
        if finding.changes:
            context.note(printable(f"{_short(str(finding.text.address))}: {finding.why}"))
    text = b"".join(patch(place_of(file), file.data, data) for file, data in files)
    if context.stdout.isatty():
        context.stdout.write(printable(text.decode(errors="replace"), keep="\n\t"))
    else:
        # As the files have it, whatever the encoding of the terminal.
        context.stdout.flush()
        context.stdout.buffer.write(text)


def _text(findings: Sequence[Finding], options: argparse.Namespace) -> list[str]:
    lines = []
    for finding in findings:
        mark = {"current": "=", "kept": "=", "failed": "!"}.get(finding.status, "~")
        lines.append(f"{mark} {_short(str(finding.text.address))}  ({finding.text.location})")
        if finding.changes:
            lines += [f"    - {_short(finding.text.text)}", f"    + {_short(finding.wanted)}"]
        else:
            lines.append(f"      {_short(finding.text.text)}")
        lines += [f"      {finding.why if finding.error is None else 'failed: see below'}"]
    lines += [""] if findings else []
    return [printable(line) for line in [*lines, _sum(findings, options)]]


def _short(reference: str) -> str:
    return _DIGEST.sub(r"\1...", reference)


def _sum(findings: Sequence[Finding], options: argparse.Namespace) -> str:
    if not findings:
        return "Nothing to update: no image here has `track`, or is pinned as NAME:TAG@DIGEST."
    counts = Counter(item.status for item in findings)
    parts = [f"{counts['written']} written"] if options.write else [f"{counts['outdated']} to write"]
    parts += [f"{counts['current']} up to date"]
    parts += [f"{counts[status]} {told}" for status, told in _TOLD.items() if counts[status]]
    hint = " `--diff` shows it as a patch, `--write` writes it." if counts["outdated"] else ""
    return f"Pins: {', '.join(parts)}.{hint}"


def _document(findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "format_version": "1.0",
        "images": [
            {
                "address": str(finding.text.address),
                "source": {
                    "file": finding.text.location.file,
                    "line": finding.text.location.line,
                    "column": finding.text.location.column,
                },
                "before": finding.text.text,
                "after": finding.wanted,
                "status": finding.status,
                "why": finding.why or None,
                "error": str(finding.error) if finding.error is not None else None,
                "hint": (finding.error.hint or None) if finding.error is not None else None,
            }
            for finding in findings
        ],
        "errored": any(finding.error is not None for finding in findings),
    }
