"""Names, references between resources, and the values of fields: cases Y20 to Y38."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from reconciler.model.address import Address
from reconciler.model.resources import Endpoint, Port, Pull, Restart, Sensitive
from reconciler.spec.errors import SpecError
from reconciler.spec.load import load_specs
from reconciler.spec.variables import Variable


@pytest.mark.parametrize("section", ["images", "networks", "volumes", "secrets", "configs", "containers"])
@pytest.mark.parametrize("name", ["../x", "a/b", '""', "a" * 300, "-x", "Web", "a b", "é", ".", ".."])
def test_y20_names(refuse, section, name):
    message = refuse(
        f"{section}: {{{name}: }}" if section in ("networks", "volumes") else f"{section}: {{{name}: {{}}}}"
    )
    assert "malformed name" in message
    assert message.startswith("a.yaml:3:")


@pytest.mark.parametrize("name", ["../x", "Shop", "a" * 64, ""])
def test_y20_stack_names(refuse, name):
    assert "a.yaml:2:" in refuse(f"apiVersion: reconciler/v1\nstack: {name!r}\n", head=False)


def test_y22_a_cycle_is_printed(refuse):
    message = refuse(
        """
        containers:
          a: {image: x/y, depends_on: [b]}
          b: {image: x/y, depends_on: [c]}
          c: {image: x/y, depends_on: [a]}
          d: {image: x/y, depends_on: [a]}
        """
    )
    assert message.count("wait for each other") == 1
    assert "a -> b -> c -> a" in message


def test_y22_a_cycle_through_a_commit(refuse):
    body = "images: {m: {commit: {container: w}}}\ncontainers: {w: {image: m}}\n"
    assert "w -> w" in refuse(body)


def test_y22_a_container_cannot_wait_for_itself(refuse_web):
    assert "web -> web" in refuse_web("depends_on: [web]")


def test_y22_no_cycle_in_a_diamond(load):
    load(
        """
        containers:
          a: {image: x/y, depends_on: [b, c]}
          b: {image: x/y, depends_on: [d]}
          c: {image: x/y, depends_on: [d]}
          d: {image: x/y}
        """
    )


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ("depends_on: [dbb]", "no container 'dbb'"),
        ("networks: [frnt]", "no network 'frnt'"),
        ("volumes: ['dta:/x']", "no volume 'dta'"),
        ("secrets: [keyy]", "no secret 'keyy'"),
        ("configs: [mtd]", "no config 'mtd'"),
    ],
)
def test_y22_dangling_names_have_a_hint(refuse, fields, what):
    message = refuse(
        f"""
        networks: {{front: }}
        volumes: {{data: }}
        secrets: {{key: {{environment: K}}}}
        configs: {{motd: {{content: x}}}}
        containers:
          db: {{image: x/y}}
          web: {{image: x/y, {fields}}}
        """,
        environment={"K": "v"},
    )
    assert what in message
    assert "did you mean" in message
    assert message.startswith("a.yaml:10:")


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("8080:80", "8080:81", True),
        ("8080:80", "127.0.0.1:8080:80", True),
        ("0.0.0.0:8080:80", "127.0.0.1:8080:80", True),
        ("127.0.0.1:8080:80", "127.0.0.2:8080:80", False),
        ("127.0.0.1:8080:80", "127.0.0.1:8080:80", True),
        ("0.0.0.0:8080:80", "[::]:8080:80", False),
        ("8080:80", "[::]:8080:80", True),
        ("[::]:8080:80", "[2001:db8::1]:8080:80", True),
        ("8080:80", "8080:80/udp", False),
        ("8000-8010:80-90", "8005:1", True),
        ("80", "80", False),
    ],
)
def test_y23_port_clashes(here, one, other, clash):
    head = "apiVersion: reconciler/v1\nstack: {}\ncontainers: {{web: {{image: a/b, ports: ['{}']}}}}\n"
    (here / "a.yaml").write_text(head.format("one", one))
    (here / "b.yaml").write_text(head.format("two", other))
    with pytest.raises(SpecError, match="choose another host port") if clash else nullcontext():
        load_specs(["."])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512m", 512 * 2**20),
        ("0.5g", 2**29),
        ("1G", 2**30),
        ("1GiB", 2**30),
        ("8388608", 2**23),
        ("10240kb", 10 * 2**20),
    ],
)
def test_y25_sizes(web, text, size):
    assert web(f"mem_limit: {text}").mem_limit == size


@pytest.mark.parametrize("text", ["-1", "1e9", "10 PB", "1p", "x", "0x10", "1_000m", "99999999t", "0.3b", "''", "[1]"])
def test_y25_other_sizes_are_refused(refuse_web, text):
    assert "mem_limit" in refuse_web(f"mem_limit: {text}")


def test_y25_below_the_minimum(refuse_web):
    assert "at least 6m" in refuse_web("mem_limit: 5m")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("250ms", 0.25), ("2d", 172800.0), ("0s", 0.0)],
)
def test_y26_durations(web, text, seconds):
    assert web(f"stop_grace_period: {text}").stop_grace_period == seconds


@pytest.mark.parametrize("text", ["10", "-5s", "1e99s", "99999999999d", "s", "1x", "'1 s'", "1h-2m", "true"])
def test_y26_other_durations_are_refused(refuse_web, text):
    assert "stop_grace_period" in refuse_web(f"stop_grace_period: {text}")


def test_y28_two_mounts_with_one_target(refuse_web):
    assert "two mounts have the target '/x'" in refuse_web("volumes: [/x, /x/]")
    rest = "configs: {c: {content: x}}"
    assert "two mounts have the target '/x'" in refuse_web("volumes: [/x]\nconfigs: [{source: c, target: /x}]", rest)


@pytest.mark.parametrize("target", ["/", "//", "/./"])
def test_y28_a_mount_cannot_cover_the_root(refuse_web, target):
    assert "cannot cover /" in refuse_web(f"volumes: [{target}]")


@pytest.mark.parametrize(
    "mount", ["relative", "a:relative", "./a:/b:rx", "a:b:c:d", "/a:", ":/a", "~/a:/b", "/a:/../b"]
)
def test_y28_malformed_mounts(refuse_web, mount):
    assert "volumes[0]" in refuse_web(f"volumes: ['{mount}']", "volumes: {a: }")


def test_y28_parents_come_before_what_lies_under_them(web, here):
    container = web("volumes: [/a/b/c, /a-b, /a, data:/a/b, './conf:/z:ro']", "volumes: {data: }")
    assert [mount.target for mount in container.mounts] == ["/a", "/a/b", "/a/b/c", "/a-b", "/z"]
    kinds = {mount.target: (mount.kind, mount.source, mount.read_only) for mount in container.mounts}
    assert kinds["/a"] == ("volume", "", False)
    assert kinds["/a/b"] == ("volume", "volume/shop/data", False)
    assert kinds["/z"] == ("bind", str(here / "conf"), True)


VARIABLES = {"A": "x", "EMPTY": "", "REC": "${A}$A"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "x"),
        ("$A", "x"),
        ("a-$A-b", "a-x-b"),
        ("$$A", "$A"),
        ("$${A}", "${A}"),
        ("${NO:-d}", "d"),
        ("${NO-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${A:-d}", "x"),
        ("${NO:-${A}}", "x"),
        ("${NO:-a}b}", "ab}"),
        ("${A:+y}", "y"),
        ("${NO:+y}", ""),
        ("${EMPTY+y}", "y"),
        ("${A?why}", "x"),
        ("${REC}", "${A}$A"),
        ("${NO:-$$}", "$"),
    ],
)
def test_y29_variables(web, text, value):
    assert web(f"environment: {{V: '{text}'}}", variables=VARIABLES).environment == (("V", value),)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("${NO}", "variable NO is not defined"),
        ("$NO", "variable NO is not defined"),
        ("${EMPTY:?say why}", "variable EMPTY is required: say why"),
        ("${NO?}", "variable NO is required"),
        ("${}", "malformed variable"),
        ("${A", "not followed by a variable's name"),
        ("${A!x}", "malformed variable"),
        ("$(id)", "not followed by a variable's name"),
        ("$", "not followed by a variable's name"),
        ("${a:-" * 10 + "}" * 10, "nest deeper"),
    ],
)
def test_y29_variables_refused(refuse_web, text, what):
    message = refuse_web(f"environment: {{V: '{text}'}}", variables=VARIABLES)
    assert what in message
    assert message.startswith("a.yaml:6:22: ")


def test_y29_expansion_is_bounded(refuse_web):
    assert "expands to more than" in refuse_web("user: '" + "$B" * 2000 + "'", variables={"B": "b" * 1000})


def test_y29_typed_fields_take_variables(web):
    container = web(
        "init: ${I}\nstop_grace_period: ${T}\nports: ['${P}:80']", variables={"I": "true", "T": "5s", "P": "81"}
    )
    assert (container.init, container.stop_grace_period, container.ports[0].host_port) == (True, 5.0, 81)


def test_y29_dotenv_beside_the_spec_is_the_weakest(web, here):
    (here / ".env").write_text("A=file\nB='file'\n")
    container = web("environment: {A: $A, B: $B}", variables={"A": "given"})
    assert container.environment == (("A", "given"), ("B", "file"))


def test_y29_the_process_environment_is_not_read(refuse_web, monkeypatch):
    monkeypatch.setenv("SOME_NAME", "x")
    assert "SOME_NAME is not defined" in refuse_web("user: $SOME_NAME")


def test_variables_of_the_environment_are_sensitive(web):
    container = web("environment: {URL: 'db://u:${PW}@h'}", environment={"PW": "hunter2"})
    ((name, value),) = container.environment
    assert (name, value) == ("URL", Sensitive("db://u:hunter2@h"))
    assert "hunter2" not in repr(container)


@pytest.mark.parametrize(
    "fields",
    [
        "user: $PW",
        "labels: {a: $PW}",
        "command: [$PW]",
        "command: x $PW",
        "restart: $PW",
        "init: $PW",
        "ports: [$PW]",
        "volumes: [$PW]",
        "mem_limit: $PW",
        "state: $PW",
        "depends_on: [$PW]",
        "env_file: $PW",
        "labels: [$PW]",
    ],
)
def test_sensitive_variables_stay_out_of_other_fields(refuse_web, fields):
    message = refuse_web(fields, variables={"PW": Variable("hunter2", sensitive=True)})
    assert "sensitive" in message
    assert "hunter2" not in message


def test_y31_a_secret_in_a_plain_field_is_warned_of(load):
    body = "containers: {web: {image: a/b, environment: {DB_PASSWORD: hunter2, X: AKIAABCDEFGHIJKLMNOP, Y: fine}}}"
    warnings = "\n".join(load(body).warnings)
    assert "DB_PASSWORD" in warnings
    assert "a.yaml:3:" in warnings
    assert "value of X" in warnings
    assert "value of Y" not in warnings
    assert "hunter2" not in warnings
    assert "AKIA" not in warnings


@pytest.mark.parametrize(
    "fields", ["environment: {'A=B': x}", 'environment: {"A\\0": x}', "environment: {'': x}", "environment: ['=x']"]
)
def test_y32_malformed_environment_names(refuse_web, fields):
    assert "variable" in refuse_web(fields)


def test_y32_a_leading_digit_is_fine(web):
    assert web("environment: {1A: x}").environment == (("1A", "x"),)


def test_y32_a_name_without_a_value(refuse_web):
    assert "write FOO=${FOO}" in refuse_web("environment: [FOO]")


@pytest.mark.parametrize(
    "text", ["include: [x.yaml]\nservices: {}\n", "include: [x.yaml]\napiVersion: reconciler/v1\nstack: s\n"]
)
def test_y34_include_is_refused(refuse, text):
    assert "include is refused" in refuse(text, head=False)


def test_y34_extends_is_refused(refuse_web):
    assert "extends is refused" in refuse_web("extends: {file: /etc/passwd, service: x}")


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ("privileged: true", "privileged"),
        ("network_mode: host", "host-network"),
        ("devices: [/dev/kvm]", "devices"),
        ("cap_add: [SYS_ADMIN]", "capabilities"),
        ("pid: host", "host-pid"),
        ("ipc: host", "host-ipc"),
        ("security_opt: [seccomp=unconfined]", "security-options"),
        ("userns_mode: host", "host-user-namespace"),
    ],
)
def test_y35_host_level_options_name_their_rule(load, fields, rule):
    (found,) = load(f"containers: {{web: {{image: a/b, {fields}}}}}").unsupported
    assert (found.address, found.field, found.rule) == ("container/shop/web", fields.split(":")[0], rule)
    assert str(found.location) == "a.yaml:3:32"


@pytest.mark.parametrize(
    ("body", "address", "field"),
    [
        ("containers: {w: {image: a/b, healthcheck: {test: x}}}", "container/shop/w", "healthcheck"),
        ("containers: {w: {image: a/b, healthcheck: }}", "container/shop/w", "healthcheck"),
        ("containers: {w: {build: .}}", "container/shop/w", "build"),
        ("containers: {w: {image: a/b, volumes: ['./a:/b:z']}}", "container/shop/w", "volumes[0].bind.selinux"),
        (
            "containers: {w: {image: a/b, networks: {default: {aliases: [x]}}}}",
            "container/shop/w",
            "networks.default.aliases",
        ),
        ("containers: {w: {image: a/b, pull_policy: daily}}", "container/shop/w", "pull_policy: daily"),
        ("networks: {n: {driver: macvlan}}", "network/shop/n", "driver"),
        ("volumes: {n: {driver: nfs}}", "volume/shop/n", "driver"),
        ("secrets: {n: {external: true}}", "secret/shop/n", "external"),
    ],
)
def test_fields_not_supported_yet_are_never_ignored(load, body, address, field):
    (found,) = load(body).unsupported
    assert (found.address, found.field, found.location.line) == (address, field, 3)


ONE = """
registries: {r.example.com: {plain_http: true}}
containers:
  web:
    image: a/b
    environment: {A: "1", B: "2"}
    ports: ["80:80", "81:81"]
    volumes: [/a, /b]
    networks: [front, back]
    labels: [x=1, y=2]
    depends_on: [db, other]
  db: {image: a/b}
  other: {image: a/b, pull_policy: always}
networks: {front: , back: }
"""
TWO = """
networks: {back: , front: }
containers:
  other: {pull_policy: always, image: a/b}
  db: {image: a/b}
  web:
    depends_on: {other: {}, db: {}}
    labels: {y: "2", x: "1"}
    networks: {back: , front: }
    volumes: [/b, /a]
    ports: ["81:81", "80:80"]
    environment: [B=2, A=1]
    image: docker.io/a/b:latest
registries: {r.example.com: {plain_http: true}}
"""


def test_y38_order_does_not_matter(load):
    assert load(ONE) == load(TWO)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("3000", [(3000, None, "", "tcp")]),
        ("3000-3001", [(3000, None, "", "tcp"), (3001, None, "", "tcp")]),
        ("8000:80", [(80, 8000, "", "tcp")]),
        ("9090-9091:8080-8081", [(8080, 9090, "", "tcp"), (8081, 9091, "", "tcp")]),
        ("127.0.0.1:8001:8002", [(8002, 8001, "127.0.0.1", "tcp")]),
        ("127.0.0.1::5000", [(5000, None, "127.0.0.1", "tcp")]),
        ("[2001:db8::1]:6001:6002", [(6002, 6001, "2001:db8::1", "tcp")]),
        ("2001:db8::1:6001:6002", [(6002, 6001, "2001:db8::1", "tcp")]),
        ("6060:6061/udp", [(6061, 6060, "", "udp")]),
        ("6060:6061/UDP", [(6061, 6060, "", "udp")]),
    ],
)
def test_ports_in_the_short_form(web, text, ports):
    assert web(f"ports: ['{text}']").ports == tuple(Port(*port) for port in ports)


@pytest.mark.parametrize(
    "port",
    [
        "'0:80'",
        "'80:65536'",
        "'a:80'",
        "'80:80/sctp'",
        "'80:80/'",
        "'8000-8002:80'",
        "'90-80'",
        "':80'",
        "'1.2.3:80:80'",
        "'[::1]:80:80'",
        "'::1:80:80'",
        "'x:80:80'",
        "{target: 80, published: '81-82'}",
        "{published: 80}",
        "{target: 80, foo: 1}",
    ],
)
def test_ports_refused(refuse_web, port):
    message = refuse_web(f"ports: [{port}]")
    assert (
        "ports[0]" in message or "unknown field 'foo'" in message or "missing" in message or "ranges differ" in message
    )
    assert message.startswith("a.yaml:6:")


def test_the_loopback_of_ipv6_cannot_be_published_on(refuse_web):
    assert "publish on 127.0.0.1" in refuse_web("ports: ['[::1]:8080:80']")


@pytest.mark.parametrize(
    ("text", "restart"),
    [
        ('"no"', Restart("no")),
        ("always", Restart("always")),
        ("unless-stopped", Restart("unless-stopped")),
        ("on-failure", Restart("on-failure")),
        ('"on-failure:3"', Restart("on-failure", 3)),
        ("on-failure:3", Restart("on-failure", 3)),
    ],
)
def test_restart_forms(web, text, restart):
    assert web(f"restart: {text}").restart == restart


@pytest.mark.parametrize("text", ["false", "never", "always:3", "on-failure:0", "on-failure:x", "''"])
def test_restart_refused(refuse_web, text):
    assert "restart" in refuse_web(f"restart: {text}")


def test_commands_are_split_as_a_shell_would(web):
    container = web("""command: sh -c "echo 'a  b'" \nentrypoint: []""")
    assert container.command == ("sh", "-c", "echo 'a  b'")
    assert container.entrypoint == ()
    assert web("command: \n").command is None


def test_a_command_with_open_quotes(refuse_web):
    assert "command" in refuse_web("""command: 'echo "a'""")


@pytest.mark.parametrize(
    ("written", "signal"), [("SIGINT", "SIGINT"), ("INT", "SIGINT"), ("2", "SIGINT"), ("SIGRTMIN+3", "SIGRTMIN+3")]
)
def test_stop_signals(web, written, signal):
    assert web(f"stop_signal: {written}").stop_signal == signal


@pytest.mark.parametrize("written", ["SIGFOO", "0", "99", "sigterm", "-9"])
def test_stop_signals_refused(refuse_web, written):
    assert "signal" in refuse_web(f"stop_signal: '{written}'")


def test_a_reference_becomes_an_entry(load):
    desired = load("containers: {a: {image: nginx}, b: {image: docker.io/library/nginx, pull_policy: always}}")
    (image,) = (a for a in desired.resources if a.kind == "image")
    assert image == Address("image", "shop/nginx:latest")
    source = desired.resources[image].source
    assert isinstance(source, Pull)
    assert source.policy == "always"


def test_two_pull_policies_for_one_reference(refuse):
    body = "containers: {a: {image: nginx, pull_policy: never}, b: {image: nginx, pull_policy: always}}"
    assert "image/shop/nginx:latest differs" in refuse(body)


def test_a_pull_policy_that_differs_from_the_entry(refuse):
    body = "images: {app: nginx}\ncontainers: {a: {image: app, pull_policy: always}}"
    assert "differs from that of image app" in refuse(body)


def test_a_typo_of_an_image(refuse, load):
    assert "did you mean base?" in refuse("images: {base: debian}\ncontainers: {a: {image: bse}}")
    assert "did you mean base?" in refuse("images: {base: debian}\ntags: {x/y: bsae}")
    load("images: {base: debian}\ncontainers: {a: {image: 'bse:latest'}, b: {image: nginx}}")


def test_the_same_name_twice_shows_both_places(here, refuse):
    (here / "b.yaml").write_text("apiVersion: reconciler/v1\nstack: shop\nvolumes: {data: }\n")
    (here / "a.yaml").write_text("apiVersion: reconciler/v1\nstack: shop\n\nvolumes: {data: }\n")
    with pytest.raises(SpecError, match=r"b\.yaml:3:11: data in volumes is declared twice .* a\.yaml:4:11"):
        load_specs(["."])


def test_facts_of_the_host_are_equal_in_all_stacks(here):
    text = "apiVersion: reconciler/v1\nstack: {}\nmirrors: {{docker.io: ['{}']}}\n"
    (here / "a.yaml").write_text(text.format("one", "http://a:1"))
    (here / "b.yaml").write_text(text.format("two", "http://a:1/"))
    desired = load_specs(["."])
    assert desired.owners[Address("mirror", "docker.io")] == {"one", "two"}
    (here / "b.yaml").write_text(text.format("two", "http://b:1"))
    with pytest.raises(SpecError, match=r"mirror/docker\.io differs from the one at a\.yaml:3:11 \(stack one\)"):
        load_specs(["."])


def test_mirrors_from_the_host(load):
    desired = load("mirrors: {from_host: true, docker.io: ['http://a:1']}")
    assert {stack: str(place).rpartition("/")[2] for stack, place in desired.from_host.items()} == {
        "shop": "a.yaml:3:11"
    }
    assert list(desired.resources) == [Address("mirror", "docker.io")]
    assert load("mirrors: {from_host: false}").from_host == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("mirrors: {from_host: 'true'}", "from_host: expected true or false, found text"),
        ("mirrors: {from_host: [http://a:1]}", "from_host: expected true or false, found a list"),
        ("mirrors: {from_host: }", "from_host: expected true or false, found nothing"),
        ("mirrors: {docker.io: true}", "docker.io: expected a list, found true"),
        ("mirrors: {from-host: true}", "did you mean from_host?"),
        ("mirrors: {docker.io: ['http://a:1/../v2']}", "no . or .. as a directory"),
        ("mirrors: {docker.io: ['http://a:1/a b']}", "no blanks"),
    ],
)
def test_mirrors_that_are_none(refuse, body, message):
    assert message in refuse(body)


def test_mirrors(load):
    desired = load("mirrors: {index.docker.io: [http://127.0.0.1:1, {url: https://m.example.com/p/, resolve: never}]}")
    assert desired.resources[Address("mirror", "docker.io")].endpoints == (
        Endpoint("http://127.0.0.1:1"),
        Endpoint("https://m.example.com/p", "never"),
    )


@pytest.mark.parametrize(
    "url", ["ftp://a", "a:5000", "https://", "http://a?x=1", "http://a:99999", "http://a:0", "http://[", "//a"]
)
def test_mirror_urls_refused(refuse, url):
    assert "mirror URL" in refuse(f"mirrors: {{docker.io: ['{url}']}}")


def test_a_mirror_url_with_a_password_is_not_echoed(refuse):
    message = refuse("mirrors: {docker.io: ['http://u:hunter2@a']}")
    assert "holds no credentials" in message
    assert "hunter2" not in message


def test_hosts_select_files(load):
    body = "hosts: {role: web}\nvolumes: {data: }"
    assert len(load(body, labels={"role": "web", "x": "y"}).resources) == 1
    skipped = load(body, labels={"role": "db"})
    assert (skipped.resources, skipped.stacks) == ({}, {"shop"})


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("images: {a: {}}", "found none"),
        ("images: {a: {pull: b, load: c}}", "both pull and load"),
        (
            "images: {a: {commit: {container: w}, pull_policy: always}}\ncontainers: {w: {image: x/y}}",
            "no meaning with commit",
        ),
        ("images: {a: {commit: {container: w}}}", "no container 'w'"),
        ("images: {a: {load: ./gone.tar}}", "there is no file"),
        ("images: {a: 'Foo:1'}", "lower case"),
        ("tags: {'a/b:1': x/y, 'docker.io/a/b:1': x/z}", "declared twice"),
        ("tags: {'a/b@sha256:" + "0" * 64 + "': x/y}", "holds no digest"),
        ("registries: {myhost: {}}", "never a registry"),
        ("registries: {a.b: {auth: {username: x}}}", "username and a password"),
        ("registries: {a.b: {auth: {helper: x, username: y}}}", "excludes"),
        ("registries: {a.b: {tls: {cert: x}}}", "go together"),
        ("mirrors: {docker.io: []}", "no mirrors"),
        ("networks: {a: {subnet: 10.0.0.1/24}}", "malformed subnet"),
        ("networks: {a: {subnet: 10.0.0.0/24}, b: {subnet: 10.0.0.128/25}}", "overlaps"),
        ("configs: {a: {}}", "one of content and file"),
        ("secrets: {a: {}}", "one of file and environment"),
        ("secrets: {a: {environment: X}}", "--env X"),
        ("containers: {a: {}}", "image is missing"),
        ("containers: {a: {image: }}", "image has no value"),
        ("containers: {a: text}", "expected a mapping, found text"),
        ("containers: []", "expected a mapping, found a list"),
        ("containers: {a: {image: x/y, ports: 80}}", "expected a list"),
        ("containers: {a: {image: x/y, state: runing}}", "did you mean running?"),
        ("containers: {a: {image: x/y, pull_policy: alwys}}", "did you mean always?"),
        ("containers: {a: {image: x/y, command: [true]}}", "quote it"),
        ("containers: {a: {image: x/y, working_dir: srv}}", "not absolute"),
        ("containers: {a: {image: x/y, depends_on: [b, b]}}", "listed twice"),
        ("containers: {a: {image: x/y, depends_on: [{}]}}", "list of names"),
        ("stack: a", "duplicate key"),
    ],
)
def test_mistakes_are_named(refuse, body, what):
    message = refuse(body)
    assert what in message
    assert message.startswith("a.yaml:")


def test_the_whole_language_loads(here):
    text = (Path(__file__).parent / "whole.yaml").read_text()
    (here / "a.yaml").write_text(text)
    desired = load_specs(["a.yaml"])
    assert desired.unsupported == ()
    assert len(desired.resources) == 21
    assert set(desired.locations) == set(desired.resources) == set(desired.owners)
