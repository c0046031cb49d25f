"""The mirrors that files of this host name for other programs, as resources."""

from __future__ import annotations

from reconciler.errors import HostError, InvalidError
from reconciler.model.desired import HostMirrors
from reconciler.model.resources import Endpoint, Mirror, Registry
from reconciler.registry.from_host.files import read_host_files
from reconciler.registry.from_host.places import Places


def host_mirrors(places: Places) -> HostMirrors:
    """See ``Engine.host_mirrors``."""
    try:
        files = read_host_files(places)
    except InvalidError as error:
        # It is not the specs that are wrong.
        raise HostError(str(error), hint=error.hint) from None
    registries = (
        Registry(
            host,
            ca=str(tls.ca or ""),
            certificate=str(tls.certificate or ""),
            key=str(tls.key or ""),
            from_file=path,
        )
        for host, (tls, path) in sorted(files.tls.items())
    )
    mirrors = (
        Mirror(host, tuple(Endpoint(end.url, end.resolve) for end in rule.endpoints), rule.blocked, path)
        for host, (rule, path) in files.rules.items()
    )
    return HostMirrors(tuple(registries), tuple(mirrors), tuple(files.notes))
