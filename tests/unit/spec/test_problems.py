"""One run reports everything that can be judged, and nothing that only follows from another problem."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.spec.errors import SpecError
from reconciler.spec.load import load_specs

HEAD = "apiVersion: reconciler/v1\nstack: shop\n"

Problems = Callable[..., list[str]]


@pytest.fixture
def problems(here: Path) -> Problems:
    """The problems of a directory of specs, each as one line without its hint."""

    def run(**files: str) -> list[str]:
        for name, body in files.items():
            (here / f"{name}.yaml").write_text(HEAD + body)
        with pytest.raises(SpecError) as caught:
            load_specs(["."])
        return [f"{problem.location}: {problem.message}" for problem in caught.value.problems]

    return run


def test_one_run_reports_the_problems_of_every_stage(problems):
    body = """\
images: {base: debian}
containers:
  one:
    imgae: base
    environment: {A: yes}
  two:
    image: bsae
    depends_on: [db]
    ports: ["8080:80"]
  three:
    image: base
    ports: ["8080:81"]
"""
    found = problems(a=body)
    places = ["a.yaml:6:5", "a.yaml:7:22", "a.yaml:8:3", "a.yaml:9:12", "a.yaml:10:18"]
    assert [line.split(": ")[0] for line in found] == places
    assert "unknown field 'imgae'" in found[0]
    assert "yes means true or false" in found[1]
    assert "container/shop/two publishes 8080:80/tcp, but container/shop/three" in found[2]
    assert "no image 'bsae'" in found[3]
    assert "no container 'db'" in found[4]


def test_the_rest_of_a_wrong_container_is_judged(problems):
    found = problems(
        a="containers:\n  a: {image: x/y, prots: [], ports: ['80:80'], depends_on: [b], networks: [n]}\n"
        "  b: {image: x/y, ports: ['80:81'], depends_on: [a]}\n"
    )
    expected = ("a -> b -> a", "unknown field 'prots'", "no network 'n'", "publishes 80:81")
    assert len(found) == len(expected)
    for line, what in zip(found, expected, strict=True):
        assert what in line


@pytest.mark.parametrize(
    ("section", "entry", "use"),
    [
        ("images", "{pul: x}", "image: it"),
        ("images", "{commit: {container: zz}}", "image: it"),
        ("images", "{load: [x]}", "image: it"),
        ("images", "{pull: a/b, pull_policy: alwys}", "image: it, pull_policy: never"),
        ("networks", "{subnet: x}", "image: a/b, networks: [it]"),
        ("volumes", "{externl: true}", "image: a/b, volumes: ['it:/d']"),
        ("secrets", "{fil: x}", "image: a/b, secrets: [it]"),
        ("configs", "text", "image: a/b, configs: [it]"),
    ],
)
def test_the_name_of_what_is_wrong_stays_known(problems, section, entry, use):
    assert len(problems(a=f"{section}: {{it: {entry}}}\ncontainers: {{web: {{{use}}}}}")) == 1


@pytest.mark.parametrize("wrong", ["text", "{imgae: x}", "{image: }", "{image: $UNDEFINED}", "{image: [x]}"])
def test_a_wrong_container_is_there_for_others(problems, wrong):
    body = f"containers:\n  it: {wrong}\n  b: {{image: x/y, depends_on: [it]}}\n"
    body += "images: {m: {commit: {container: it}}}\n"
    assert len(problems(a=body)) == 1


def test_a_malformed_name_is_one_problem(problems):
    assert len(problems(a="containers: {Web: {image: x/y}, b: {image: x/y, depends_on: [Web]}}")) == 1


@pytest.mark.parametrize(
    "broken",
    [
        "containers: {b: [}",
        "contianers: {b: {image: x/y}}",
        "containers: {b: {image: x/y, <<: 5}}",
        "hosts: 5\ncontainers: {b: {image: x/y}}",
        "containers: [b]",
    ],
)
def test_names_that_may_be_in_what_cannot_be_read_are_not_called_missing(problems, broken):
    using = (
        "images: {base: x/y, m: {commit: {container: b}}}\n"
        "containers: {a: {image: bsae, depends_on: [b], networks: [n], secrets: [s], volumes: ['v:/v'], ports: ['1:1']}"
        ", c: {image: base, ports: ['1:1']}}"
    )
    found = problems(a=using, b=broken)
    assert len(found) == 2
    assert "container/shop/c publishes 1:1/tcp" in found[0]
    assert found[1].startswith("b.yaml:")


def test_documents_before_a_syntax_error_count(problems):
    body = f"containers: {{a: {{imgae: x}}}}\n---\n{HEAD}containers: [\n"
    assert [line.split(":")[1] for line in problems(a=body)] == ["3", "8"]


def test_a_section_given_twice_keeps_the_names_of_both(problems):
    body = "containers: {a: {image: x/y}}\ncontainers: {b: {image: x/y, depends_on: [a, c]}}"
    duplicate, missing = problems(a=body)
    assert "duplicate key 'containers'" in duplicate
    assert "no container 'c'" in missing


def test_a_merge_key_given_twice_keeps_what_both_bring(problems):
    body = "x-a: &a {image: x/y}\nx-b: &b {init: true}\ncontainers: {a: {<<: *a, <<: *b, depends_on: [c]}}"
    duplicate, missing = problems(a=body)
    assert "duplicate key '<<'" in duplicate
    assert "no container 'c'" in missing


def test_several_things_wrong_in_one_mapping(problems):
    found = problems(a="containers: {a: {image: , user: , prots: x, init: 5, environment: [B, C]}}")
    assert [line.split(": ", 1)[1] for line in found] == [
        "image has no value",
        "user has no value",
        "unknown field 'prots'",
        "init: expected true or false, found a number",
        "environment: variables B, C have no value",
    ]


def test_variables_that_cannot_be_read_are_not_called_undefined(problems, here):
    (here / ".env").write_text("no assignment\n")
    (found,) = problems(a="containers: {a: {image: $IMAGE, user: '$USER_ID'}}")
    assert found.startswith(".env:1:1")


def test_an_undefined_variable_has_no_consequences(problems):
    (found,) = problems(a="containers: {a: {image: x/y, ports: ['$P:80'], mem_limit: $P, environment: {A: $P}}}")[:1]
    assert "variable P is not defined" in found
    assert len(problems(a="containers: {a: {image: x/y, ports: ['$P:80', '1:x']}}")) == 2


def test_what_is_not_supported_yet_is_told_with_the_rest(problems):
    later, unknown = problems(a="containers: {a: {image: x/y, healthcheck: {}, prots: x}}")
    assert later.endswith("not supported yet: healthcheck")
    assert "prots" in unknown


def test_a_name_declared_twice_is_told_though_one_is_wrong(problems):
    wrong, twice = problems(a="volumes: {data: {externl: true}}", b="volumes: {data: }")
    assert "externl" in wrong
    assert "declared twice" in twice


def test_other_hosts_files_declare_nothing_here(here):
    (here / "a.yaml").write_text(HEAD + "hosts: {role: db}\ncontainers: {db: {image: x/y}}\n")
    (here / "b.yaml").write_text(HEAD + "containers: {web: {image: x/y, depends_on: [db]}}\n")
    with pytest.raises(SpecError, match="no container 'db'"):
        load_specs(["."], labels={"role": "web"})
    assert load_specs(["."], labels={"role": "db"})


@pytest.mark.parametrize(
    ("text", "place", "what", "hint"),
    [
        ("containers:\n\ta: {}\n", "4:1", "a tab", "indent with spaces"),
        ("x: 'a\ny: b\n", "3:4", "the quote that opens here", "close"),
        ("x: @a\n", "3:4", "cannot start", "quote"),
        ("x: a: b\n", "3:5", "not allowed", "quote"),
        ("a:\n  b: c\n d: e\n", "5:2", "block mapping", "indentation"),
        ("a: {b: [c}\n", "3:10", "flow", "closed"),
        ("a: {{ b }}\n", "3:5", "a key must be text", "quote"),
        ("a: *b\n", "3:4", "alias", "quote text"),
    ],
)
def test_what_the_parser_says_comes_with_advice(refuse, text, place, what, hint):
    message = refuse(text)
    assert message.startswith(f"a.yaml:{place}: ")
    assert what in message
    assert hint in message


@pytest.mark.parametrize("fields", ["image: x/y, depends_on: [zz]", "imag: x", "image: $U, prots: 1"])
def test_thousands_of_problems_take_no_longer_than_as_many_containers(problems, fields):
    start = time.process_time()
    found = problems(a="containers:\n" + "".join(f"  c{i}: {{{fields}}}\n" for i in range(3000)))
    assert len(found) >= 3000
    assert time.process_time() - start < 5.0
