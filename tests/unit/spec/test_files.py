"""Files that specs are found in and name: cases G04, G05, G28, and variables from files."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from reconciler.errors import HostError, InvalidError, NotFoundError
from reconciler.model.resources import FileContent, Import, Load, Sensitive
from reconciler.spec.dotenv import parse_dotenv
from reconciler.spec.errors import Problems, SpecError
from reconciler.spec.load import load_specs
from reconciler.spec.tree import LocalTree

EMPTY = bytes(1024)  # an archive of nothing
SPEC = "apiVersion: reconciler/v1\nstack: {}\nvolumes: {{data: }}\n"


def test_a_directory_is_read_without_subdirectories_and_dotfiles(here):
    for name in (
        "a.yaml",
        "b.yml",
        "c.json",
        ".hidden.yaml",
        "notes.txt",
        "sub/d.yaml",
        "sub/.x/e.yaml",
        ".git/f.yaml",
    ):
        (here / name).parent.mkdir(exist_ok=True, parents=True)
        (here / name).write_text(SPEC.format(name[0] if name[0] != "." else "x"))
    (here / "c.json").write_text('{"apiVersion": "reconciler/v1", "stack": "c"}')
    (here / "sub/d.yaml").write_text(SPEC.format("d"))
    assert load_specs(["."]).stacks == {"a", "b", "c"}
    assert load_specs(["."], recursive=True).stacks == {"a", "b", "c", "d"}
    assert load_specs(["a.yaml", ".", str(here / "a.yaml"), "sub"]).stacks == {"a", "b", "c", "d"}


def test_a_path_that_is_not_there(here):
    with pytest.raises(SpecError, match="there is no file or directory 'gone'"):
        load_specs(["gone"])


def test_files_of_one_stack_merge(here):
    (here / "a.yaml").write_text("apiVersion: reconciler/v1\nstack: s\ncontainers: {w: {image: app, networks: [n]}}\n")
    (here / "b.yaml").write_text("apiVersion: reconciler/v1\nstack: s\nimages: {app: nginx}\nnetworks: {n: }\n")
    assert {str(a) for a in load_specs(["."]).resources} == {"container/s/w", "image/s/app", "network/s/n"}


def test_a_compose_file_takes_its_stack_from_the_directory(here):
    (here / "My Shop").mkdir()
    (here / "My Shop" / "compose.yaml").write_text("services: {web: {image: nginx}}\n")
    assert "container/myshop/web" in {str(a) for a in load_specs(["My Shop"]).resources}
    (here / "My Shop" / "compose.yaml").write_text("version: 3.8\nname: shop\nservices: {web: {image: nginx}}\n")
    desired = load_specs(["My Shop"])
    assert desired.stacks == {"shop"}
    assert "version has no meaning" in desired.warnings[0]


def test_a_compose_file_has_no_sections_of_ours(here):
    (here / "compose.yaml").write_text("services: {web: {image: nginx}}\nimages: {}\n")
    with pytest.raises(SpecError, match=r"compose\.yaml:2:1: unknown field 'images'"):
        load_specs(["compose.yaml"])


def test_paths_are_relative_to_the_spec_file(here):
    (here / "sub/conf").mkdir(parents=True)
    (here / "sub/vars.env").write_text("A=1\n")
    (here / "sub/motd").write_text("hello")
    (here / "sub/root.tar").write_bytes(EMPTY)
    (here / "sub/a.yaml").write_text(
        "apiVersion: reconciler/v1\nstack: s\nimages: {i: {import: root.tar}, l: {load: {file: root.tar, ref: x}}}\n"
        "configs: {motd: {file: ./motd}}\n"
        "containers: {w: {image: i, env_file: vars.env, configs: [motd], volumes: ['./conf:/c']}}\n"
    )
    resources = {str(a): r for a, r in load_specs(["sub"]).resources.items()}
    archive = FileContent(str(here / "sub/root.tar"), hashlib.sha256(EMPTY).hexdigest(), 1024)
    assert resources["image/s/i"].source == Import(archive)
    assert resources["image/s/l"].source == Load(archive, "x")
    web = resources["container/s/w"]
    assert web.environment == (("A", "1"),)
    assert (web.configs[0].content, web.configs[0].target, web.configs[0].mode) == ("hello", "/motd", 0o444)
    assert web.mounts[0].source == str(here / "sub/conf")


def test_a_file_that_is_no_archive_is_refused_where_it_is_named(here):
    (here / "notes.txt").write_text("not an archive\n" * 100)
    (here / "a.yaml").write_text(
        "apiVersion: reconciler/v1\nstack: s\nimages:\n  i: {import: notes.txt}\n  l: {load: {file: notes.txt}}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_specs(["a.yaml"])
    assert str(caught.value).splitlines() == [
        "a.yaml:4:15: 'notes.txt' is no tar archive: it seems to be text",
        "  pack a root filesystem: tar -C DIRECTORY -cf FILE .",
        "a.yaml:5:20: 'notes.txt' is no tar archive: it seems to be text",
        "  give what `reconciler image save` or `docker save` wrote",
    ]


def test_env_files_in_order_and_environment_over_all(web, here):
    (here / "one.env").write_text("A=1\nB=1\nC=1\n")
    (here / "two.env").write_text("B=2\nC=2\n")
    fields = "env_file: [one.env, {path: two.env}, {path: gone.env, required: false}]\nenvironment: {C: 3}"
    assert web(fields).environment == (("A", "1"), ("B", "2"), ("C", "3"))


def test_an_env_file_that_is_not_there(refuse_web):
    assert "a.yaml:6:15: env_file: there is no file 'gone.env'" in refuse_web("env_file: gone.env")


@pytest.mark.parametrize("written", ["103", "'103'"])
def test_the_owner_of_a_secret_may_be_quoted_as_compose_does(web, written):
    (secret,) = web(
        f"secrets: [{{source: k, uid: {written}, gid: {written}}}]",
        "secrets: {k: {environment: K}}",
        environment={"K": "v"},
    ).secrets
    assert (secret.uid, secret.gid) == (103, 103)


@pytest.mark.parametrize("written", ["-1", "root", "4294967295", "010", "1.0", "''"])
def test_the_owner_of_a_secret_is_a_number(refuse_web, written):
    assert "uid: malformed number of a user" in refuse_web(f"secrets: [{{source: k, uid: {written}}}]")


def test_g28_a_secret_is_sensitive_and_private(web, here):
    (here / "key").write_bytes(b"hunter2\xff")
    (here / "key").chmod(0o600)
    rest = "secrets: {key: {file: ./key}, other: {environment: K}}"
    container = web("secrets: [key, {source: other, target: sub/k, mode: 0440, uid: 5}]", rest, environment={"K": "v"})
    key, other = container.secrets
    assert (key.target, key.mode, key.content) == ("/run/secrets/key", 0o400, Sensitive("hunter2\udcff"))
    assert (other.target, other.mode, other.uid, other.content) == ("/run/secrets/sub/k", 0o440, 5, Sensitive("v"))
    assert "hunter2" not in repr(container)


def _secret(load, here):
    return load("secrets: {key: {file: ./key}}\n")


def test_g28_a_readable_secret_is_warned_of(load, here):
    (here / "key").write_text("x")
    (here / "key").chmod(0o644)
    assert "readable by everyone" in _secret(load, here).warnings[0]
    (here / "key").chmod(0o600)
    assert _secret(load, here).warnings == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_g28_a_secret_of_another_user_is_warned_of(load, here):
    (here / "key").write_text("x")
    (here / "key").chmod(0o600)
    os.chown(here / "key", 12345, 12345)
    assert "belongs to user 12345" in _secret(load, here).warnings[0]


def test_g28_a_link_to_a_secret_is_followed(load, here):
    (here / "real").write_text("x")
    (here / "real").chmod(0o600)
    (here / "key").symlink_to("real")
    assert _secret(load, here).warnings == ()


def test_g28_a_fifo_does_not_block(load, here):
    os.mkfifo(here / "key")
    found: list[str] = []

    def read() -> None:
        with pytest.raises(SpecError, match="not a regular file") as caught:
            _secret(load, here)
        found.append(str(caught.value))

    worker = threading.Thread(target=read, daemon=True)
    worker.start()
    worker.join(timeout=10)
    assert found


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.write_text(""), lambda p: p.symlink_to("gone")])
def test_g28_a_secret_is_a_regular_file_with_something_in_it(load, here, make):
    make(here / "key")
    with pytest.raises(SpecError, match=r"a\.yaml:3:23: file: "):
        _secret(load, here)


def test_g28_files_have_a_limit(load, here):
    (here / "key").write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(SpecError, match="more than"):
        _secret(load, here)


def test_validation_reads_no_secrets(load):
    load("secrets: {a: {file: /nonexistent/key}, b: {environment: NOT_GIVEN}}", secrets=False)


def test_g04_a_link_out_of_the_tree_is_refused(here):
    (here / "tree/conf").mkdir(parents=True)
    (here / "outside").write_text("x")
    (here / "tree/file").symlink_to("../outside")
    (here / "tree/dir").symlink_to("..")
    (here / "tree/inside").symlink_to("conf")
    tree = LocalTree(here / "tree")
    for path in ("file", "dir/outside", "../outside", "conf/../../outside"):
        with pytest.raises(InvalidError, match="leads out of"):
            tree.read(str(here / "tree"), path, 100)
        with pytest.raises(InvalidError, match="leads out of"):
            tree.export(str(here / "tree"), path)
    assert tree.export(str(here / "tree"), "inside") == (str(here / "tree/inside"), "")


def test_g04_a_spec_in_a_confined_tree_names_the_file(here):
    (here / "tree").mkdir()
    (here / "tree/a.yaml").write_text(SPEC.format("s") + "configs: {c: {file: ./link}, d: {file: /etc/hostname}}\n")
    (here / "tree/link").symlink_to("/etc/shadow")
    with pytest.raises(SpecError) as caught:
        load_specs(["tree"], tree=LocalTree(here / "tree"))
    message = str(caught.value)
    assert "tree/a.yaml:4:21: file: './link' leads out of" in message
    assert "tree/a.yaml:4:40: '/etc/hostname' is absolute" in message


def test_g04_a_loop_of_links_is_refused(here):
    (here / "a").symlink_to("b")
    (here / "b").symlink_to("a")
    with pytest.raises((HostError, InvalidError)):
        LocalTree(here).read(str(here), "a", 10)


def test_a_name_too_long_for_the_system(here):
    with pytest.raises(SpecError, match="cannot read"):
        load_specs(["x" * 5000])


def test_g05_malformed_paths(refuse):
    assert "NUL" in refuse('configs: {c: {file: "a\\0b"}}')
    assert "malformed path" in refuse("configs: {c: {file: ''}}")


def test_reading_reports_what_is_wrong(here):
    with pytest.raises(NotFoundError, match="there is no file"):
        LocalTree().read(".", "gone", 10)
    with pytest.raises(InvalidError, match="not a regular file"):
        LocalTree().read(".", ".", 10)
    with pytest.raises(InvalidError, match="not a regular file"):
        LocalTree().read("/dev", "null", 10)


DOTENV = b"""\xef\xbb\xbf# comment
A=plain value # comment
B='single $A # \\n'   # comment
C="double \\"x\\" \\n\\t\\$ \\q"
export D=d
  E  =  e#not
F=
G="two
lines"
H='two
lines'
I=#x
J.k-l=1
"""


def test_dotenv():
    problems = Problems()
    assert parse_dotenv(".env", DOTENV.replace(b"D=d\n", b"D=d\r\n"), problems) == {
        "A": "plain value",
        "B": "single $A # \\n",
        "C": 'double "x" \n\t$ \\q',
        "D": "d",
        "E": "e#not",
        "F": "",
        "G": "two\nlines",
        "H": "two\nlines",
        "I": "",
        "J.k-l": "1",
    }
    problems.raise_if_any()


@pytest.mark.parametrize("line", ["hunter2", "=hunter2", "A='hunter2", 'A="hunter2', "1A=hunter2", "A='x' hunter2"])
def test_dotenv_mistakes_are_placed_and_not_echoed(line):
    problems = Problems()
    parse_dotenv(".env", f"OK=1\n\n{line}\n".encode(), problems)
    with pytest.raises(SpecError, match=r"^\.env:3:1: ") as caught:
        problems.raise_if_any()
    assert "hunter2" not in str(caught.value)


def test_loading_a_thousand_containers_is_linear_and_quick(here):
    import time

    spec = "apiVersion: reconciler/v1\nstack: s\nvolumes: {data: }\ncontainers:\n" + "".join(
        f"  c{i}: {{image: 'nginx:1.27', environment: {{A: '{i}'}}, ports: ['{10000 + i}:80'], volumes: ['data:/d']}}\n"
        for i in range(1000)
    )
    (here / "a.yaml").write_text(spec)
    load_specs(["a.yaml"])
    start = time.process_time()
    assert len(load_specs(["a.yaml"]).resources) == 1003
    assert time.process_time() - start < 1.0
