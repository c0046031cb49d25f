"""The models of a spec file: what `specs/v1/` publishes is generated from these."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from reconciler.errors import InvalidError
from reconciler.oci.reference import Reference, parse_registry
from reconciler.spec.fields import (
    Also,
    Bool,
    Command,
    ContainerPath,
    Duration,
    Environment,
    Labels,
    Name,
    Path,
    PlatformName,
    SecretText,
    Signal,
    Text,
    TextList,
    Word,
    boolean,
    checked,
    integer,
    parsed,
)
from reconciler.spec.mapping import Model, later
from reconciler.spec.schema_container import POLICIES, Container
from reconciler.spec.schema_mirrors import Mirrors
from reconciler.spec.schema_sync import RepositoryName, Sync
from reconciler.spec.schema_track import Track


def _tag_reference(value: str) -> Reference:
    reference = Reference.parse(value)
    if reference.digest is not None:
        raise InvalidError("a tag's name holds no digest", hint="write registry/repository:tag")
    return reference


def _subnet(value: str) -> IPv4Network:
    try:
        network = IPv4Network(value)
    except ValueError as error:
        raise InvalidError(f"malformed subnet ({error})", hint="write an IPv4 subnet such as 10.80.0.0/24") from None
    if network.prefixlen > 29:
        raise InvalidError("the subnet is too small", hint="a prefix of /29 or shorter leaves room for containers")
    return network


RegistryHost = Annotated[str, checked(parse_registry), WithJsonSchema({"type": "string"})]
ReferenceText = Annotated[str, checked(Reference.parse), WithJsonSchema({"x-kind": "reference", "type": "string"})]
TagName = Annotated[str, checked(_tag_reference), WithJsonSchema({"type": "string"})]
Subnet = Annotated[IPv4Network, parsed(_subnet), WithJsonSchema({"type": "string"})]


class Password(Model):
    """Where a password comes from; the spec never holds it."""

    file: Path | None = Field(default=None, description="A file that holds it; one newline at its end is dropped.")
    environment: Text | None = Field(default=None, description="A variable of the reconciler's environment.")


class Auth(Model):
    """How to log in to a registry: a user name and a password's source, or a credential helper."""

    username: Text = Field(default="", description="The user name.")
    password: Password | None = Field(default=None, description="Where the password comes from.")
    helper: Text = Field(default="", description="NAME of a `docker-credential-NAME` program.")


class Tls(Model):
    """TLS files, relative to the spec file."""

    ca: Path | None = Field(default=None, description="Certificates to trust for this registry, in PEM.")
    cert: Path | None = Field(default=None, description="The client certificate, in PEM.")
    key: Path | None = Field(default=None, description="The client certificate's key, in PEM.")


class Registry(Model):
    """How to reach one registry."""

    may_be_empty: ClassVar[bool] = True

    auth: Auth | None = Field(default=None, description="Credentials. Left out, those of `login`, docker or podman.")
    tls: Tls | None = Field(default=None, description="TLS files.")
    plain_http: Bool = Field(default=False, description="Speak HTTP without TLS.")


class ConfigChanges(Model):
    """What an import or a commit sets in the image's config."""

    cmd: Command | None = Field(default=None, description="The default command.")
    entrypoint: Command | None = Field(default=None, description="The entrypoint.")
    environment: Environment = Field(default_factory=dict, description="Variables to add.")
    user: Text | None = Field(default=None, description="The default user.")
    working_dir: ContainerPath | None = Field(default=None, description="The default directory.")
    stop_signal: Signal | None = Field(default=None, description="The signal that asks to stop.")
    labels: Labels = Field(default_factory=dict, description="Labels to add.")
    exposed_ports: TextList = Field(default=(), description="Ports to note as exposed, such as `80/tcp`.")
    volumes: tuple[ContainerPath, ...] = Field(
        default=(), description="Directories for which each container gets a volume of its own."
    )


class Load(Model):
    """An image archive: OCI layout or `docker save`."""

    short: ClassVar[str] = "file"

    file: Path = Field(description="The archive, relative to the spec file. It counts by content.")
    ref: Text = Field(default="", description="Which image of the archive, where it holds several.")


class Commit(Model):
    """A container's writable layer as one more layer on its image."""

    container: Name = Field(description="A container of this stack; a job is waited for.")
    author: Text = Field(default="", description="Kept in the image's history.")
    message: Text = Field(default="", description="Kept in the image's history.")
    when: Annotated[Literal["exited"], Word] = Field(default="exited", description="Taken once the container exited 0.")


class Image(Model):
    """One image; exactly one of `pull`, `import`, `load` and `commit`."""

    short: ClassVar[str] = "pull"

    pull: ReferenceText | None = Field(default=None, description="The reference to pull.")
    track: Track | None = Field(
        default=None,
        description="Picks the tag of a `pull` that names none. With NAME:TAG@DIGEST in `pull`, that is the image "
        "until `reconciler update --write`, or somebody, changes that text.",
    )
    import_: Path | None = Field(
        default=None,
        alias="import",
        description="A root filesystem archive (tar, also compressed) that becomes one layer.",
    )
    load: Load | None = Field(default=None, description="An image archive to load.")
    commit: Commit | None = Field(default=None, description="A container to commit.")
    pull_policy: Annotated[Literal["missing", "always", "newer", "never"], Word] = Field(
        default="missing", description=f"{POLICIES} Only with `pull`."
    )
    platform: PlatformName | None = Field(
        default=None, description="Such as `linux/arm64`; the host's when left out. With `pull` and `import`."
    )
    config: ConfigChanges | None = Field(default=None, description="Changes to the config. With `import` and `commit`.")


class PushOptions(Model):
    """Whether a push may overwrite."""

    overwrite: Annotated[Literal["owned", "always", "never"], Word] = Field(
        default="owned",
        description="`owned`: only what this host pushed last; `always`; `never`: an immutable release.",
    )


def _push_before(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    return {} if boolean(value) else None


class Tag(Model):
    """A tag on an image."""

    short: ClassVar[str] = "image"

    image: Text = Field(description="The name of an entry in `images`, else a reference.")
    push: Annotated[PushOptions | None, BeforeValidator(_push_before), Also({"type": "boolean"})] = Field(
        default=None, description="Push it to its registry. `true` is `{overwrite: owned}`; left out, it stays here."
    )


class IpamConfig(Model):
    """A network's addresses."""

    subnet: Subnet = Field(description="An IPv4 subnet.")
    ip_range: Any = later()
    gateway: Any = later()
    aux_addresses: Any = later()


class Ipam(Model):
    """Another way to write `subnet`."""

    config: tuple[IpamConfig, ...] = Field(default=(), description="At most one entry.")
    driver: Any = later(same=("default",))
    options: Any = later()


class Network(Model):
    """A bridge network."""

    may_be_empty: ClassVar[bool] = True

    subnet: Subnet | None = Field(default=None, description="An IPv4 subnet. Left out, one that is free.")
    external: Bool = Field(default=False, description="Made by someone else: used, never created or removed.")
    labels: Labels = Field(default_factory=dict, description="Labels.")
    ipam: Ipam | None = Field(default=None, description="The subnet as compose files write it.")
    name: Any = later()
    driver: Any = later(same=("bridge",))
    driver_opts: Any = later()
    attachable: Any = later(same=(False,))
    enable_ipv4: Any = later(same=(True,))
    enable_ipv6: Any = later(same=(False,))
    internal: Any = later(same=(False,))


class Volume(Model):
    """A volume. Its data is kept when it leaves the specs."""

    may_be_empty: ClassVar[bool] = True

    external: Bool = Field(default=False, description="Made by someone else: used, never created or removed.")
    labels: Labels = Field(default_factory=dict, description="Labels.")
    name: Any = later()
    driver: Any = later(same=("local",))
    driver_opts: Any = later()


class Secret(Model):
    """A secret: exactly one of `file` and `environment`."""

    file: Path | None = Field(default=None, description="A regular file, read at every plan.")
    environment: Text | None = Field(default=None, description="A variable that is passed with `--env NAME`.")
    name: Any = later()
    external: Any = later(same=(False,))
    driver: Any = later()
    template_driver: Any = later()
    labels: Any = later()


class Config(Model):
    """A config: exactly one of `content` and `file`."""

    content: SecretText | None = Field(default=None, description="The text itself.")
    file: Path | None = Field(default=None, description="A file, relative to the spec file. It counts by content.")
    environment: Any = later()
    name: Any = later()
    external: Any = later(same=(False,))
    template_driver: Any = later()
    labels: Any = later()


class ImageRetention(Model):
    """What gc keeps of the images that nothing uses."""

    keep_generations: Annotated[int, *integer(0, 1_000_000)] | None = Field(
        default=None, description="Images of this many last applies are kept; 3 where no stack says."
    )
    unused_for: Duration | None = Field(default=None, description="An image is kept until it was unused this long.")


class ContainerRetention(Model):
    """What gc keeps of containers that ended and are not declared."""

    exited_for: Duration | None = Field(default=None, description="A container is kept until it was exited this long.")


class Retention(Model):
    """What gc keeps although nothing uses it. Of several stacks' rules, the one that keeps most wins."""

    images: ImageRetention | None = Field(default=None, description="For images.")
    containers: ContainerRetention | None = Field(default=None, description="For containers.")


VERSION = "reconciler/v1"

NAMELESS = frozenset({"retention", "version"})
"""The fields of a file, of those that can be left out, that hold no names."""

_SHARED = frozenset({"networks", "volumes", "secrets", "configs"})


class Spec(Model):
    """A spec file."""

    nullable: ClassVar[frozenset[str]] = _SHARED | {
        "registries",
        "mirrors",
        "images",
        "tags",
        "containers",
        "retention",
        "syncs",
    }

    apiVersion: Annotated[Literal["reconciler/v1"], Word] = Field(description="Always `reconciler/v1`.")  # noqa: N815
    stack: Name = Field(description="What this file belongs to. Files of one stack merge.")
    hosts: dict[str, Text] | None = Field(
        default=None, description="Labels that a host must have; other hosts skip this file. Left out: every host."
    )
    registries: dict[RegistryHost, Registry] = Field(
        default_factory=dict, description="How to reach registries, by host."
    )
    mirrors: Mirrors = Field(
        default_factory=dict,
        description="Mirrors of a registry, tried in order before it; `*` is every registry not named, and "
        "`from_host: true` takes over those of this host's other programs.",
    )
    images: dict[Name, Image] = Field(default_factory=dict, description="Images. Text is short for `{pull: TEXT}`.")
    tags: dict[TagName, Tag] = Field(
        default_factory=dict, description="Tags, by reference. Text is short for `{image: TEXT}`."
    )
    networks: dict[Name, Network] = Field(default_factory=dict, description="Networks of the stack.")
    volumes: dict[Name, Volume] = Field(default_factory=dict, description="Volumes of the stack.")
    secrets: dict[Name, Secret] = Field(default_factory=dict, description="Secrets that containers may use.")
    configs: dict[Name, Config] = Field(default_factory=dict, description="Files that containers may use.")
    containers: dict[Name, Container] = Field(default_factory=dict, description="Containers.")
    retention: Retention | None = Field(default=None, description="What gc keeps.")
    syncs: dict[RepositoryName, Sync] = Field(
        default_factory=dict, description="Copies between registries, by the repository that receives them."
    )


class ComposeFile(Model):
    """A compose file: no `apiVersion`, and `services`, which become containers of the same names."""

    nullable: ClassVar[frozenset[str]] = _SHARED | {"services"}

    name: Name | None = Field(default=None, description="The stack. Left out, the directory's name.")
    version: Text = Field(default="", description="Has no meaning; read for old files.")
    services: dict[Name, Container] = Field(default_factory=dict, description="Containers.")
    networks: dict[Name, Network] = Field(default_factory=dict, description="Networks.")
    volumes: dict[Name, Volume] = Field(default_factory=dict, description="Volumes.")
    secrets: dict[Name, Secret] = Field(default_factory=dict, description="Secrets.")
    configs: dict[Name, Config] = Field(default_factory=dict, description="Configs.")
    models: Any = later()
