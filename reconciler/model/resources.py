"""The desired resources, fully resolved: no defaults left to guess, no names left to look up.

Everything here is plain data. Paths are absolute; durations are seconds; sizes are bytes. A field that is ``None``
or empty was not given, and leaves the choice to the image.
"""

from __future__ import annotations

from dataclasses import field
from ipaddress import IPv4Network
from typing import Literal

from reconciler.model.address import Address
from reconciler.model.selection import TagSelection
from reconciler.oci.platform import Platform
from reconciler.oci.reference import Reference
from reconciler.value import dataclass


@dataclass(frozen=True, slots=True)
class Sensitive:
    """A value that must never be shown. ``seal`` is its keyed hash, filled in before planning."""

    value: str = field(repr=False)
    seal: str = field(default="", compare=False)

    def __str__(self) -> str:
        return "(sensitive)"


Text = str | Sensitive
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Auth:
    """Where a registry's credentials come from; the password is a source, never a value.

    ``password_environment`` names a variable of the reconciler's environment, ``password_file`` an absolute path,
    ``helper`` a ``docker-credential-*`` program.
    """

    username: str = ""
    password_file: str = ""
    password_environment: str = ""
    helper: str = ""


@dataclass(frozen=True, slots=True)
class Registry:
    """How to reach one registry host: plain HTTP, TLS files (absolute paths) and where its credentials come from.

    ``from_file`` is the file of this host that says so, where no spec does.
    """

    host: str
    plain_http: bool = False
    auth: Auth | None = None
    ca: str = ""
    certificate: str = ""
    key: str = ""
    from_file: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One mirror of a registry; ``resolve`` says when it may answer for tags."""

    url: str
    resolve: Literal["first", "fallback", "never"] = "fallback"


@dataclass(frozen=True, slots=True)
class Mirror:
    """The mirrors of one registry host, in the order they are tried. ``host`` may be ``*``.

    ``blocked`` means that the registry must not be asked at all. ``from_file`` is as for a registry.
    """

    host: str
    endpoints: tuple[Endpoint, ...]
    blocked: bool = False
    from_file: str = ""


@dataclass(frozen=True, slots=True)
class Retention:
    """What gc keeps although nothing uses it. ``None`` leaves a rule to its default."""

    keep_generations: int | None = None
    images_unused_for: float | None = None
    containers_exited_for: float | None = None


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """What an import or a commit sets in the image's config. ``None`` leaves the base's value, ``()`` takes it away."""

    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: Pairs = ()
    user: str | None = None
    working_dir: str | None = None
    stop_signal: str | None = None
    labels: Pairs = ()
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


PullPolicy = Literal["missing", "always", "newer", "never"]


@dataclass(frozen=True, slots=True)
class Pull:
    """An image from a registry. ``platform`` None is that of the host.

    With ``track`` the reference names a repository alone, and the tag is picked at every plan; or it has a digest, a
    pin that only the spec moves.
    """

    reference: Reference
    policy: PullPolicy = "missing"
    platform: Platform | None = None
    track: TagSelection | None = None

    @property
    def picks(self) -> TagSelection | None:
        """What the tag is picked by, or None when the reference says it all."""
        return self.track if self.reference.digest is None else None


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file that counts by content: where it is, and the sha256 (hex) of what it holds."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Import:
    """A root filesystem archive that becomes a one-layer image."""

    archive: FileContent
    config: ConfigChanges = ConfigChanges()
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """An image archive (OCI layout or docker-archive); ``ref`` picks one image where it holds several."""

    archive: FileContent
    ref: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """The writable layer of ``container`` as one more layer on its image, taken once it has exited 0."""

    container: Address
    author: str = ""
    message: str = ""
    when: Literal["exited"] = "exited"
    config: ConfigChanges = ConfigChanges()


@dataclass(frozen=True, slots=True)
class Image:
    """An entry of ``images``: where the image comes from."""

    source: Pull | Import | Load | Commit


PushRule = Literal["owned", "always", "never"]


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag on ``image``. ``push`` is None for a tag that stays on this host, else when it may overwrite."""

    reference: Reference
    image: Address
    push: PushRule | None = None


ALL_TAGS = TagSelection()


@dataclass(frozen=True, slots=True)
class Prune:
    """That a sync takes away what it does not choose: but for tags that match a pattern of ``protect`` as a whole, and
    no more than ``max_delete_share`` of the tags there in one plan."""

    protect: tuple[str, ...] = ()
    max_delete_share: float = 0.3


@dataclass(frozen=True, slots=True)
class Sync:
    """Tags of ``source`` that ``target`` has too; both are ``registry/repository``.

    ``platforms`` empty is all of them. With ``referrers``, signatures and whatever else refers to an image go along.
    ``prune`` None leaves alone what else is at the target. ``interval`` is the seconds between two looks of a daemon.
    """

    target: str
    source: str
    tags: TagSelection = ALL_TAGS
    platforms: tuple[Platform, ...] = ()
    referrers: bool = True
    prune: Prune | None = None
    interval: float = 3600.0


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge network. An ``external`` one is used, never made or removed."""

    subnet: IPv4Network | None = None
    external: bool = False
    labels: Pairs = ()


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory that outlives its containers. An ``external`` one is used, never made or removed."""

    external: bool = False
    labels: Pairs = ()


@dataclass(frozen=True, slots=True)
class Port:
    """A published port. ``host_address`` empty means every address; ``host_port`` None lets the engine choose."""

    container_port: int
    host_port: int | None = None
    host_address: str = ""
    protocol: Literal["tcp", "udp"] = "tcp"


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount (``source`` is a host path), a volume (``source`` is its address) or an anonymous volume ("").

    ``tree`` is the git object that a bind from a repository was exported from: it is part of the canonical form.
    """

    kind: Literal["bind", "volume", "tmpfs"]
    source: str
    target: str
    read_only: bool = False
    tree: str = ""


@dataclass(frozen=True, slots=True)
class FileMount:
    """A secret or a config as a file in the container. ``name`` is its name in the spec."""

    name: str
    target: str
    content: Text
    mode: int = 0o444
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Restart:
    """When a container is started again; ``attempts`` None is without limit."""

    policy: Literal["no", "on-failure", "always", "unless-stopped"] = "unless-stopped"
    attempts: int | None = None

    @property
    def is_job(self) -> bool:
        """A job runs to completion once per spec or image; a service is kept running."""
        return self.policy in ("no", "on-failure")


@dataclass(frozen=True, slots=True)
class Dependency:
    """Another container of the stack, and what it must have come to before this one starts."""

    container: Address
    condition: Literal["service_started", "service_completed_successfully"] = "service_started"


@dataclass(frozen=True, slots=True)
class Container:
    """One container. ``image`` is the address of a desired image: a reference in the spec became an entry."""

    image: Address
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: tuple[tuple[str, Text], ...] = ()
    user: str = ""
    working_dir: str = ""
    ports: tuple[Port, ...] = ()
    mounts: tuple[Mount, ...] = ()
    networks: tuple[Address, ...] = ()
    secrets: tuple[FileMount, ...] = ()
    configs: tuple[FileMount, ...] = ()
    restart: Restart = Restart()
    depends_on: tuple[Dependency, ...] = ()
    stop_signal: str = ""
    stop_grace_period: float = 10.0
    init: bool = False
    labels: Pairs = ()
    mem_limit: int | None = None
    state: Literal["running", "stopped"] = "running"


Resource = Registry | Mirror | Retention | Image | Tag | Sync | Network | Volume | Container
