"""The fields of a container: the Compose specification's names and meanings."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from reconciler.errors import InvalidError
from reconciler.spec import ports
from reconciler.spec.fields import (
    AS_LIST,
    Also,
    Bool,
    Command,
    ContainerPath,
    Duration,
    Environment,
    Id,
    Labels,
    Mode,
    Name,
    Path,
    Signal,
    Size,
    Text,
    Word,
    checked,
    fail,
    kind_of,
    loosened,
    parsed,
    text,
)
from reconciler.spec.mapping import Model, later

POLICIES = (
    "When to ask the registry: `missing`, for what is not on disk; `always`, at every plan what the tag is now (one "
    "HEAD), and what is stored stays where nobody answers; `newer` is the same, for those who know it from podman; "
    "`never`, not at all. A digest that is on disk is never asked about."
)

_RANGE_SCHEMA = WithJsonSchema({"x-kind": "port", "type": ["integer", "string"]})
PortRangeField = Annotated[ports.PortRange, parsed(ports.parse_range), _RANGE_SCHEMA]
ExposedPort = Annotated[str, checked(ports.parse_exposed), _RANGE_SCHEMA]
AddressField = Annotated[str, parsed(ports.parse_address), WithJsonSchema({"type": "string"})]


class Port(Model):
    """A published port in the long form."""

    target: PortRangeField = Field(description="The container's port, or a range `8000-8010`.")
    published: PortRangeField | None = Field(
        default=None, description="The host's port, or a range of the same length. Left out, the engine chooses one."
    )
    host_ip: AddressField | None = Field(
        default=None, description="The host address to publish on. Left out, every address. `::1` is refused."
    )
    protocol: Annotated[Literal["tcp", "udp"], Word] = Field(default="tcp", description="`tcp` or `udp`.")
    name: Text | None = Field(default=None, description="A name for people; it changes nothing.")
    app_protocol: Text | None = Field(default=None, description="What is spoken there; it changes nothing.")
    mode: Any = later(same=("host", "ingress"))


def _port_before(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ports.split_short(text(value))
    except InvalidError as error:
        raise fail(f"{error}: {value!a}", error.hint) from None


class BindOptions(Model):
    """Options of a bind mount."""

    propagation: Any = later()
    create_host_path: Any = later()
    recursive: Any = later()
    selinux: Any = later()


class VolumeMount(Model):
    """A mount in the long form."""

    type: Annotated[Literal["bind", "volume", "tmpfs"], Word] = Field(description="`bind`, `volume` or `tmpfs`.")
    source: Path | None = Field(
        default=None,
        description="For `bind` a path on the host, relative to the spec file; for `volume` a name from `volumes`, "
        "or nothing for an anonymous volume.",
    )
    target: ContainerPath = Field(description="The absolute path in the container.")
    read_only: Bool = Field(default=False, description="Mount read-only.")
    bind: BindOptions | None = Field(default=None, description="Options of a bind mount.")
    volume: Any = later()
    tmpfs: Any = later()
    consistency: Any = later()
    image: Any = later()


def _mount_before(value: Any) -> Any:
    """Splits ``[SOURCE:]TARGET[:ro|rw]``; a source that begins with ``/`` or ``.`` is a path, else a volume."""
    if not isinstance(value, str):
        return value
    parts = text(value).split(":")
    hint = "write [SOURCE:]TARGET[:ro], such as data:/var/lib/app or ./conf:/etc/app:ro"
    if len(parts) > 3 or not all(parts):
        raise fail(f"malformed mount {value!a}", hint)
    if len(parts) == 1:
        return {"type": "volume", "target": parts[0]}
    source, target = parts[:2]
    if source.startswith("~"):
        raise fail("~ is not expanded", "write the path out")
    long: dict[str, Any] = {"type": "bind" if source[0] in "/." else "volume", "source": source, "target": target}
    for option in parts[2].split(",") if len(parts) == 3 else ():
        if option in ("ro", "rw"):
            long["read_only"] = option == "ro"
        elif option in ("z", "Z"):
            long["bind"] = {"selinux": option}
        else:
            raise fail(f"unknown mount option {option[:40]!a}", "write ro or rw")
    return long


class FileUse(Model):
    """A secret or a config in the long form."""

    short: ClassVar[str] = "source"

    source: Name = Field(description="Its name in `secrets` or `configs`.")
    target: Path | None = Field(
        default=None,
        description="Where it appears. A secret's default, and the start of a relative path, is `/run/secrets/`; "
        "a config's is `/`.",
    )
    mode: Mode | None = Field(default=None, description="Octal. 0400 for a secret and 0444 for a config when left out.")
    uid: Id = Field(default=0, description="The owner's number in the container.")
    gid: Id = Field(default=0, description="The group's number in the container.")


class EnvFile(Model):
    """A file of variables in the long form."""

    short: ClassVar[str] = "path"

    path: Path = Field(description="Relative to the spec file.")
    required: Bool = Field(default=True, description="False: a file that is not there is no error.")
    format: Any = later()


class Dependency(Model):
    """What to wait for."""

    condition: Annotated[Literal["service_started", "service_healthy", "service_completed_successfully"], Word] = Field(
        "service_started", description="What the other container must have reached."
    )
    restart: Any = later(same=(False,))
    required: Any = later(same=(True,))


class Attachment(Model):
    """How a container joins a network."""

    may_be_empty: ClassVar[bool] = True

    aliases: Any = later()
    ipv4_address: Any = later()
    ipv6_address: Any = later()
    link_local_ips: Any = later()
    mac_address: Any = later()
    interface_name: Any = later()
    driver_opts: Any = later()
    gw_priority: Any = later()
    priority: Any = later()


def _names_as_map(value: Any) -> Any:
    """The list form of ``networks`` and ``depends_on`` as a mapping."""
    if isinstance(value, (str, bool)):
        raise fail(f"expected a list or a mapping, found {kind_of(value)}", AS_LIST)
    if not isinstance(value, list):
        return value
    names = [loosened(item) for item in value]
    for item in names:
        if not isinstance(item, str):
            raise fail("expected a list of names")
        if names.count(item) > 1:
            raise fail(f"{item[:80]!a} is listed twice", "keep one of them")
    return {item: {} for item in names}


def _one_as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_NAMES = (BeforeValidator(_names_as_map), Also({"type": "array", "items": {"type": "string"}, "uniqueItems": True}))
_SHORT = Also({"x-kind": "short", "type": ["string", "integer"]})


class LaterFields(Model):
    """Fields of the Compose specification, and of ours, that this version does not honour yet."""

    annotations: Any = later()
    attach: Any = later(same=(False,))
    blkio_config: Any = later()
    build: Any = later()
    cap_add: Any = later(rule="capabilities")
    cap_drop: Any = later()
    cgroup: Any = later(rule="host-cgroup")
    cgroup_parent: Any = later()
    container_name: Any = later("A container's name is its name in the spec.")
    cpu_count: Any = later()
    cpu_percent: Any = later()
    cpu_period: Any = later()
    cpu_quota: Any = later()
    cpu_rt_period: Any = later()
    cpu_rt_runtime: Any = later()
    cpu_shares: Any = later()
    cpus: Any = later()
    cpuset: Any = later()
    credential_spec: Any = later()
    deploy: Any = later()
    develop: Any = later()
    device_cgroup_rules: Any = later(rule="devices")
    devices: Any = later(rule="devices")
    dns: Any = later()
    dns_opt: Any = later()
    dns_search: Any = later()
    domainname: Any = later()
    driver_opts: Any = later()
    external_links: Any = later()
    extra_hosts: Any = later()
    gpus: Any = later(rule="devices")
    group_add: Any = later()
    healthcheck: Any = later()
    hostname: Any = later()
    ipc: Any = later(rule="host-ipc")
    isolation: Any = later()
    label_file: Any = later()
    links: Any = later()
    logging: Any = later()
    mac_address: Any = later()
    mem_reservation: Any = later()
    mem_swappiness: Any = later()
    memswap_limit: Any = later()
    models: Any = later()
    network_mode: Any = later(rule="host-network")
    oom_kill_disable: Any = later(same=(False,))
    oom_score_adj: Any = later()
    pid: Any = later(rule="host-pid")
    pids_limit: Any = later()
    platform: Any = later("Set it on the entry in `images`.")
    post_start: Any = later()
    pre_stop: Any = later()
    privileged: Any = later(rule="privileged", same=(False,))
    profiles: Any = later()
    provider: Any = later()
    pull_refresh_after: Any = later()
    read_only: Any = later(same=(False,))
    runtime: Any = later()
    scale: Any = later(same=("1",))
    security_opt: Any = later(rule="security-options")
    shm_size: Any = later()
    stdin_open: Any = later(same=(False,))
    storage_opt: Any = later()
    sysctls: Any = later()
    tmpfs: Any = later()
    tty: Any = later(same=(False,))
    ulimits: Any = later()
    update: Any = later()
    use_api_socket: Any = later(rule="host-socket")
    userns_mode: Any = later(rule="host-user-namespace")
    uts: Any = later(rule="host-uts")
    volumes_from: Any = later()


class Container(LaterFields):
    """One container."""

    nullable: ClassVar[frozenset[str]] = frozenset({"command", "entrypoint"})

    image: Text | None = Field(
        default=None, description="The name of an entry in `images`, else a reference such as `nginx:1.27`. Required."
    )
    command: Command | None = Field(
        default=None, description="Replaces the image's command. Text is split into words as a shell would."
    )
    entrypoint: Command | None = Field(
        default=None, description="Replaces the image's entrypoint, and drops its command."
    )
    environment: Environment = Field(
        default_factory=dict,
        description="Variables, as a mapping or as a list of `NAME=value`. Numbers keep their source text; true, "
        "false, null and no value are errors: quote them.",
    )
    env_file: Annotated[tuple[EnvFile, ...], BeforeValidator(_one_as_list), Also({"type": "string"})] = Field(
        default=(), description="Files of `NAME=value` lines. Later files win, and `environment` wins over all."
    )
    user: Text = Field(default="", description="`user[:group]`, by name or by number.")
    working_dir: ContainerPath | None = Field(default=None, description="The absolute directory to start in.")
    ports: tuple[Annotated[Port, BeforeValidator(_port_before), _SHORT], ...] = Field(
        default=(), description="Published ports: `[ADDRESS:][HOST:]CONTAINER[/tcp|udp]`, ranges too, or the long form."
    )
    expose: tuple[ExposedPort, ...] = Field(
        default=(),
        description="A note of the ports it listens on; it changes nothing. Containers of one network reach each "
        "other on every port.",
    )
    volumes: tuple[Annotated[VolumeMount, BeforeValidator(_mount_before), _SHORT], ...] = Field(
        default=(),
        description="Mounts: `[SOURCE:]TARGET[:ro]`, or the long form. A lone target is an anonymous volume.",
    )
    networks: Annotated[dict[str, Attachment], *_NAMES] = Field(
        default_factory=dict, description="Names from `networks`. Left out, the stack's network `default`."
    )
    secrets: tuple[FileUse, ...] = Field(default=(), description="Secrets, as files under `/run/secrets`.")
    configs: tuple[FileUse, ...] = Field(default=(), description="Configs, as files.")
    restart: Text = Field(
        default="unless-stopped",
        description='`unless-stopped` or `always`: a service, kept running. `"no"` or `on-failure[:N]`: a job, run '
        "to completion once.",
    )
    depends_on: Annotated[dict[str, Dependency], *_NAMES] = Field(
        default_factory=dict, description="Containers of the stack that come first: a list, or names with conditions."
    )
    stop_signal: Signal = Field(
        default="", description="The signal that asks it to stop. Left out, the image's, else SIGTERM."
    )
    stop_grace_period: Duration = Field(default=10.0, description="How long it has to stop before SIGKILL.")
    init: Bool = Field(
        default=False, description="Run an init process as PID 1 that reaps children and passes signals on."
    )
    labels: Labels = Field(default_factory=dict, description="Labels, as a mapping or as a list of `name=value`.")
    mem_limit: Size | None = Field(default=None, description="The memory limit, at least 6m.")
    state: Annotated[Literal["running", "stopped"], Word] = Field(
        default="running", description="`running` or `stopped`. To remove a container, delete its entry."
    )
    pull_policy: Text | None = Field(
        default=None,
        description=f"{POLICIES} `if_not_present` is `missing`. For a reference; an entry of `images` has its own.",
    )
