"""The strict reader: cases Y01 to Y19, Y37, Y40."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.model.desired import Desired
from reconciler.spec.errors import SpecError
from reconciler.spec.load import load_specs

WEB = "containers: {web: {image: nginx, %s}}"


def test_y01_duplicate_key_shows_both_lines(refuse):
    assert refuse("volumes:\n  data: {}\n  data: {}\n") == (
        "a.yaml:5:3: duplicate key 'data', first given on line 4\n  keep one of them"
    )


def test_y01_every_duplicate_is_reported(refuse):
    assert refuse("volumes:\n  a: {}\n  a: {}\n  b: {}\n  b: {}\n").count("duplicate key") == 2


def test_y02_no_is_text(web):
    assert web("restart: no").restart.policy == "no"


def test_y02_environment_keeps_source_text(web):
    fields = "environment: {A: 5432, B: 1.10, C: 0755, D: 1e3, E: 0x1F, F: 1_000, G: 2024-01-01, H: ' x '}"
    assert web(fields).environment == (
        ("A", "5432"),
        ("B", "1.10"),
        ("C", "0755"),
        ("D", "1e3"),
        ("E", "0x1F"),
        ("F", "1_000"),
        ("G", "2024-01-01"),
        ("H", " x "),
    )


@pytest.mark.parametrize("value", ["true", "False", "TRUE", "null", "~", ""])
def test_y02_environment_refuses_what_is_no_text(refuse_web, value):
    message = refuse_web(f"environment:\n  A: {value}\n")
    assert "a.yaml:7:" in message
    assert "quote it" in message


@pytest.mark.parametrize("value", ["yes", "no", "on", "off", "NO", "Yes"])
def test_y02_words_of_yaml_1_1_are_refused_in_environment(refuse_web, value):
    assert "quote it" in refuse_web(f"environment: {{A: {value}}}")


@pytest.mark.parametrize("value", ["yes", "on", '"true"', "1"])
def test_y02_a_boolean_is_true_or_false(refuse_web, value):
    assert "expected true or false" in refuse_web(f"init: {value}")


@pytest.mark.parametrize("mode", ["0755", "0o755", '"0755"'])
def test_y04_modes_are_octal(web, mode):
    container = web(f"configs: [{{source: m, mode: {mode}}}]", "configs: {m: {content: x}}")
    assert container.configs[0].mode == 0o755


@pytest.mark.parametrize("mode", ["755", "493", "0o999", "0x1ff", "rw", "00755000"])
def test_y04_other_modes_are_refused(refuse_web, mode):
    assert "octal" in refuse_web(f"configs: [{{source: m, mode: {mode}}}]", "configs: {m: {content: x}}")


def test_y05_text_fields_keep_the_source_text(load):
    desired = load("images: {py: 'python:3.10', n: 1.10}\n")
    names = {str(a): str(r.source.reference) for a, r in desired.resources.items()}
    assert names == {
        "image/shop/py": "docker.io/library/python:3.10",
        "image/shop/n": "docker.io/library/1.10:latest",
    }


@pytest.mark.parametrize("value", ["1_000", "1e3", "0x1F", "0o17", "010", "1.0", '"3"', "99999999999999999999"])
def test_y05_typed_fields_refuse_odd_numbers(refuse, value):
    assert "keep_generations" in refuse(f"retention: {{images: {{keep_generations: {value}}}}}")


@pytest.mark.parametrize("key", ["on", "NO", "yes", "true", "null", "1"])
def test_y07_keys_stay_text(web, key):
    assert web(f"environment: {{{key}: x}}\nlabels: {{{key}: x}}").environment == ((key, "x"),)


def test_y08_alias_bomb_is_refused_at_once(refuse):
    levels = "".join(f"x-l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10))
    start = time.monotonic()
    message = refuse("x-l0: &l0 [a, a, a, a, a, a, a, a, a]\n" + levels)
    assert "aliases expand to more than" in message
    assert time.monotonic() - start < 1


def test_y08_an_alias_inside_its_own_anchor_is_refused(refuse):
    assert "no finished anchor" in refuse("x-a: &a [*a]\n")


def test_y08_aliases_cannot_pass_the_depth_limit(refuse):
    levels = "".join(f"x-l{n}: &l{n} [[[[[[[[*l{n - 1}]]]]]]]]\n" for n in range(1, 10))
    assert "nest deeper" in refuse("x-l0: &l0 a\n" + levels)


@pytest.mark.parametrize("count", [51, 3_000, 200_000])
def test_y10_deep_nesting_is_refused(refuse, count):
    message = refuse("x-deep: " + "[" * count + "]" * count)
    assert "nested deeper" in message or "malformed YAML" in message


def test_y11_a_huge_integer_and_a_bad_date(refuse):
    assert "not a whole" in refuse("retention: {images: {keep_generations: " + "9" * 300 + "}}")
    assert "whole number" in refuse("retention: {images: {keep_generations: " + "9" * 5000 + "}}")
    assert "whole number" in refuse("retention: {images: {keep_generations: 2024-13-45}}")


def test_y11_a_bad_date_is_text(web):
    assert web("environment: {D: 2024-13-45}").environment == (("D", "2024-13-45"),)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [x]", "!x y", "!!str 5", "!!binary aGk=", "! a"])
def test_y13_tags_are_refused(refuse, tag):
    assert "are not allowed" in refuse(f"x-a: {tag}\n")


def test_y14_several_documents(load):
    second = "---\napiVersion: reconciler/v1\nstack: other\nvolumes: {b: {}}\n"
    desired = load("volumes: {a: {}}\n" + second)
    assert {str(a) for a in desired.resources} == {"volume/shop/a", "volume/other/b"}


@pytest.mark.parametrize("text", ["", "# only\n# comments\n", "---\n", "---\n---\n...\n", "\ufeff", "~"])
def test_y14_an_empty_file_declares_nothing(load, text):
    desired = load(text, head=False)
    assert (desired.resources, desired.stacks) == ({}, frozenset())


@pytest.mark.parametrize("text", ["- a\n", "text\n", "5\n"])
def test_y14_a_spec_is_a_mapping(refuse, text):
    assert "a spec is a mapping" in refuse(text, head=False)


def test_y14_the_kind_of_file_must_be_clear(refuse):
    assert refuse("stack: shop\n", head=False).startswith("a.yaml:1:1: apiVersion is missing")
    assert "did you mean" not in refuse("apiVersion: v2\nstack: a\n", head=False)
    assert "not reconciler/v1" in refuse("apiVersion: reconciler/v2\nstack: a\n", head=False)


def test_y16_crlf_is_fine(here):
    (here / "a.yaml").write_bytes(b"apiVersion: reconciler/v1\r\nstack: shop\r\nvolumes:\r\n  data: {}\r\n")
    assert len(load_specs(["a.yaml"]).resources) == 1


def test_y16_look_alikes_are_shown_escaped(refuse):
    assert "unknown field 'im\\u0430ge'" in refuse("containers: {web: {image: a, im\u0430ge: b}}")
    assert "\\xa0" in refuse("volumes:\n\u00a0 data: {}\n")


def test_y16_tabs_and_bad_bytes(refuse, here):
    assert "malformed YAML" in refuse("volumes:\n\tdata: {}\n")
    (here / "b.yaml").write_bytes(b"a: b\nc: \xff\n")
    with pytest.raises(SpecError, match=r"^b\.yaml:2:4: the file is not UTF-8"):
        load_specs(["b.yaml"])
    (here / "b.yaml").write_bytes(b"a: b\nc: \x00\n")
    with pytest.raises(SpecError, match=r"^b\.yaml:2:"):
        load_specs(["b.yaml"])


def test_y17_an_unknown_field_has_a_hint(refuse):
    assert refuse("containers:\n  web:\n    imgae: nginx\n").startswith(
        "a.yaml:5:5: unknown field 'imgae'\n  did you mean image?"
    )
    assert "did you mean containers?" in refuse("contianers: {}")
    assert "did you mean pull_policy?" in refuse("images: {a: {pull: b, pul_policy: always}}")


def test_y17_x_keys_are_ignored_but_not_in_maps_of_names(load):
    desired = load("x-a: [1]\ncontainers: {web: {image: a, x-b: 1, labels: {x-c: d}}}\nvolumes: {x-v: {x-d: 1}}\n")
    names = {str(a) for a in desired.resources}
    assert "volume/shop/x-v" in names
    (web,) = (r for a, r in desired.resources.items() if a.kind == "container")
    assert web.labels == (("x-c", "d"),)


def test_y19_merge_keys(load):
    desired = load(
        """
        x-base: &base {image: nginx, restart: always, user: a}
        containers:
          web: {<<: *base, user: b}
          two: {<<: [*base, {user: c, init: true}]}
        """
    )
    two, web = (desired.resources[a] for a in sorted(desired.resources) if a.kind == "container")
    assert (web.user, web.restart.policy) == ("b", "always")
    assert (two.user, two.init) == ("a", True)


def test_y19_merge_keys_refused(refuse):
    assert "duplicate key '<<'" in refuse("x-a: &a {b: c}\nvolumes:\n  v: {<<: *a, <<: *a}\n")
    assert "a merge key takes" in refuse("volumes: {v: {<<: text}}")


def test_y37_json_is_the_same_language(here):
    document = {"apiVersion": "reconciler/v1", "stack": "shop", "containers": {"web": {"image": "a", "init": True}}}
    (here / "a.json").write_text(json.dumps(document, indent=1))
    (here / "b.yaml").write_text("apiVersion: reconciler/v1\nstack: shop\ncontainers:\n  web: {image: a, init: true}\n")
    assert load_specs(["a.json"]).resources == load_specs(["b.yaml"]).resources
    (here / "a.json").write_text('{"apiVersion": "reconciler/v1", "stack": "s", "volumes": {"a": {}, "a": {}}}')
    with pytest.raises(SpecError, match="duplicate key 'a'"):
        load_specs(["a.json"])


def test_files_have_a_size_limit(here):
    (here / "a.yaml").write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    with pytest.raises(SpecError, match="bytes"):
        load_specs(["a.yaml"])


def test_several_errors_in_one_run_sorted_by_place(here):
    (here / "b.yaml").write_text("apiVersion: reconciler/v1\nstack: s\nvolums: {}\ncontainers: {w: {imge: a}}\n")
    (here / "a.yaml").write_text("apiVersion: reconciler/v1\nstack: s\nfoo: [\n")
    with pytest.raises(SpecError) as caught:
        load_specs(["."])
    assert [str(problem.location) for problem in caught.value.problems] == ["a.yaml:4:1", "b.yaml:3:1", "b.yaml:4:18"]


SEED = (Path(__file__).parent / "whole.yaml").read_bytes()


def _is_typed(data: bytes, place: Path) -> None:
    place.write_bytes(data)
    try:
        assert isinstance(load_specs([str(place)]), Desired)
    except SpecError as error:
        assert error.problems
        assert all(problem.location for problem in error.problems)


_BUDGET = int(os.environ.get("RECONCILER_FUZZ_EXAMPLES", "150"))


@settings(max_examples=_BUDGET, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=4096))
def test_y40_random_bytes(here, data):
    _is_typed(data, here / "a.yaml")


MUTATION = st.tuples(
    st.integers(0, len(SEED)),
    st.integers(0, 12),
    st.sampled_from(
        [
            b"",
            b"[",
            b"{",
            b"}",
            b"]",
            b"*a",
            b"&a ",
            b"!!x ",
            b"<<: ",
            b"\n",
            b"\t",
            b": ",
            b"- ",
            b"'",
            b'"',
            b"|\n",
            b"\0",
            b"\xff",
            b"9" * 400,
            b"null",
            b"true",
            b"${A}",
            b"$",
            b"\xc2\xa0",
            b"x-",
            b"? ",
            b"---\n",
            b"~",
            b"-1",
            b"#",
        ]
    ),
)


@settings(max_examples=_BUDGET, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=st.lists(MUTATION, min_size=1, max_size=4))
def test_y40_mutated_specs(here, mutations):
    data = SEED
    for position, length, piece in mutations:
        data = data[:position] + piece + data[position + length :]
    _is_typed(data, here / "a.yaml")
