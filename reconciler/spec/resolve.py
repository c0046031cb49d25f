"""Validated documents to ``Desired``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.model.desired import Desired
from reconciler.spec.build import Build, build_host, build_stack_facts
from reconciler.spec.checks import check_cycles, check_ports
from reconciler.spec.container_files import read_contents
from reconciler.spec.containers import build_containers
from reconciler.spec.images import build_images, build_tags
from reconciler.spec.schema import ComposeFile, Spec
from reconciler.spec.stacks import Document, merge
from reconciler.spec.syncs import build_syncs, check_syncs


def resolve(build: Build, documents: Sequence[Document], labels: Mapping[str, str]) -> Desired:
    """Merges the documents that are meant for this host and resolves every name.

    Raises ``SpecError`` for what was found here and before; it then holds what is not supported yet, too.
    """
    chosen = [document for document in documents if is_for(document, labels)]
    stacks = merge(chosen, build.problems)
    for stack in stacks.values():
        build_host(build, stack)
        build_stack_facts(build, stack)
        read_contents(build, stack)
        build_images(build, stack)
        build_containers(build, stack)
        build_tags(build, stack)
        build_syncs(build, stack)
    for document in chosen:
        _note_document(build, document)
    check_ports(build)
    check_cycles(build)
    check_syncs(build)
    if build.problems:
        for item in build.unsupported:
            build.problems.add(item.location, f"not supported yet: {item.field}", "remove it")
    build.problems.raise_if_any()
    return Desired(
        resources=build.resources,
        stacks=frozenset(document.stack for document in documents),
        locations=build.locations,
        owners=build.owners,
        unsupported=tuple(sorted(set(build.unsupported), key=lambda item: (item.location, item.field))),
        warnings=tuple(sorted(build.warnings)),
        from_host=build.from_host,
    )


def is_for(document: Document, labels: Mapping[str, str]) -> bool:
    """Whether a document is meant for a host with these labels."""
    hosts = document.model.hosts if isinstance(document.model, Spec) else None
    return all(labels.get(name) == value for name, value in (hosts or {}).items())


def _note_document(build: Build, document: Document) -> None:
    """Sections that are not supported yet, and fields without a meaning."""
    model = document.model
    for name in sorted(model.model_fields_set & model.later_fields.keys()):
        build.refuse(f"stack/{document.stack}", name, document.at((name,), key=True), model.later_fields[name])
    if isinstance(model, ComposeFile) and model.version:
        build.warnings.add(f"{document.at(('version',), key=True)}: version has no meaning; remove the line")
