"""From declared registries and mirrors to a registry client, with credentials looked up when a server wants them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.clock import SystemClock
from reconciler.errors import AuthError
from reconciler.model.address import Address
from reconciler.model.canonical import Form
from reconciler.model.resources import Auth, Endpoint, Mirror, Registry
from reconciler.oci.sizes import DEFAULT_MANIFEST_BYTES
from reconciler.value import dataclass

if TYPE_CHECKING:
    from reconciler.engine.port import HostFacts
    from reconciler.model.observed import ObservedFact
    from reconciler.registry.client import RegistryClient
    from reconciler.registry.health import Health
    from reconciler.registry.hosts import Credentials, CredentialSource
    from reconciler.registry.keychain import Helpers

_MAX_SECRET_FILE = 64 * 1024
_MAX_LOGIN_FILE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the command line passes on of the process environment, and where notes for the user go."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth_files: Sequence[Path] = ()
    note: Callable[[str], None] = lambda _text: None


def recorded_facts(facts: Mapping[Address, ObservedFact]) -> HostFacts:
    """The registries and mirrors that the last applies recorded."""
    from reconciler.engine.port import HostFacts

    registries, mirrors = [], []
    for address, fact in sorted(facts.items(), key=lambda item: str(item[0])):
        if address.kind == "registry":
            registries.append(_registry(fact.form))
        elif address.kind == "mirror":
            mirrors.append(_mirror(fact.form))
    return HostFacts(tuple(registries), tuple(mirrors))


def merged(declared: HostFacts, recorded: HostFacts) -> HostFacts:
    """What is declared now, and what was recorded for hosts that are not declared now.

    What a file of the host says gives way to what a spec declared, be that another stack's; and what a file said
    before, to what the files say now.
    """
    from reconciler.engine.port import HostFacts

    current = not declared.files_read
    registries = {item.host: item for item in recorded.registries if current or not item.from_file}
    for registry in declared.registries:
        if not registry.from_file or registries.get(registry.host, registry).from_file:
            registries[registry.host] = registry
    mirrors = {item.host: item for item in recorded.mirrors if current or not item.from_file}
    for mirror in declared.mirrors:
        if not mirror.from_file or mirrors.get(mirror.host, mirror).from_file:
            mirrors[mirror.host] = mirror
    return HostFacts(tuple(registries.values()), tuple(mirrors.values()))


def make_client(
    facts: HostFacts,
    surroundings: Surroundings,
    login: CredentialSource | None = None,
    *,
    quota_floor: int = 0,
    health: Health | None = None,
    manifest_limit: int = DEFAULT_MANIFEST_BYTES,
) -> RegistryClient:
    """A client that goes by ``facts``. With ``login`` it has no other credentials. The caller closes it.

    Of a server that counts requests for manifests, ``quota_floor`` are left unused. ``health`` is what is known of
    servers, shared with other clients. ``manifest_limit`` bounds manifests, in bytes.
    """
    from reconciler.registry.client import RegistryClient
    from reconciler.registry.hosts import HostConfig, MirrorEndpoint, RegistryHosts, TlsConfig
    from reconciler.registry.keychain import Helpers
    from reconciler.registry.proxy import Proxies

    helpers = Helpers(surroundings.environment, SystemClock())
    configs = {}
    for registry in facts.registries:
        tls = None
        if registry.ca or registry.certificate:
            paths = (registry.ca, registry.certificate, registry.key)
            tls = TlsConfig(*(Path(path) if path else None for path in paths))
        source = _source(registry.auth, surroundings, helpers) if registry.auth and login is None else login
        configs[registry.host] = HostConfig(registry.host, registry.plain_http, tls, source)
    mirrors = {
        mirror.host: tuple(MirrorEndpoint(end.url, end.resolve) for end in mirror.endpoints) for mirror in facts.mirrors
    }

    def stored(host: str, repository: str) -> Credentials | None:
        return stored_login(host, repository, surroundings.auth_files, helpers)

    blocked = {mirror.host: mirror.from_file for mirror in facts.mirrors if mirror.blocked}
    hosts = RegistryHosts(configs, mirrors, login or stored, blocked)
    return RegistryClient(
        hosts,
        clock=SystemClock(),
        proxies=Proxies.from_variables(surroundings.proxies),
        note=surroundings.note,
        quota_floor=quota_floor,
        health=health,
        manifest_limit=manifest_limit,
    )


def stored_login(host: str, repository: str, files: Sequence[Path], helpers: Helpers) -> Credentials | None:
    """The login for a repository of ``host`` in the files of docker and podman; the first file that knows it wins."""
    from reconciler.registry.dockerconfig import DockerConfig, Kept

    for path in files:
        text = read_login_file(path)
        if text is None:
            continue
        found = DockerConfig.parse(text, str(path)).login(host, repository)
        if isinstance(found, Kept):
            found = helpers.get(found.helper, host)
        if found is not None:
            return found
    return None


def read_login_file(path: Path) -> str | None:
    """The text of a file of logins, None where there is none. Raises ``AuthError``, and quotes nothing of it."""
    if path == Path(os.devnull):
        return None
    try:
        return _read(path, "file of logins", _MAX_LOGIN_FILE).decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuthError(f"cannot read {path}: {error.strerror}", hint="mend its permissions") from None
    except UnicodeDecodeError:
        raise AuthError(f"{path} is not UTF-8 text", hint="repair it, or move it away and log in again") from None


def _source(auth: Auth, surroundings: Surroundings, helpers: Helpers) -> CredentialSource:
    from reconciler.registry.hosts import Credentials

    def credentials(host: str, _repository: str) -> Credentials | None:
        if auth.helper:
            found = helpers.get(auth.helper, host)
            if found is None:
                raise AuthError(
                    f"the credential helper {auth.helper!a} has no login for {host}",
                    hint=f"store one in it, for instance with `docker login {host}`",
                )
            return found
        if auth.password_environment:
            value = surroundings.environment.get(auth.password_environment)
            if value is None:
                raise AuthError(
                    f"the password for {host} is to come from ${auth.password_environment}, which is not set",
                    hint="set it in the environment of this command",
                )
            return Credentials(auth.username, value)
        return Credentials(auth.username, _read_secret(Path(auth.password_file), host))

    return credentials


def _read_secret(path: Path, host: str) -> str:
    try:
        data = _read(path, f"password file for {host}", _MAX_SECRET_FILE)
    except OSError as error:
        raise AuthError(
            f"cannot read the password file for {host}: {path}: {error.strerror}", hint="create it, mode 0600"
        ) from None
    return data.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _read(path: Path, what: str, limit: int) -> bytes:
    # A FIFO would block for ever, and a device could give anything.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise AuthError(f"the {what}, {path}, is no regular file", hint="name a file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise AuthError(f"the {what}, {path}, has more than {limit} bytes", hint="name another file")
    return data


def _registry(form: Form) -> Registry:
    fields = dict(json.loads(json.dumps(form)))
    auth = fields.pop("auth", None)
    return Registry(auth=Auth(**auth) if auth is not None else None, **fields)


def _mirror(form: Form) -> Mirror:
    endpoints = tuple(Endpoint(item) if isinstance(item, str) else Endpoint(**item) for item in form["endpoints"])
    return Mirror(form["host"], endpoints, form.get("blocked", False), form.get("from_file", ""))
