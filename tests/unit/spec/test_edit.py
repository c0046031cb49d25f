"""Texts changed in spec files: each manner of writing one, and the law that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.spec.edit import edited
from reconciler.spec.errors import Problems
from reconciler.spec.nodes import Scalar, find
from reconciler.spec.reader import read_documents

OLD, NEW = "r.example.com:5000/app:1.4", "r.example.com:5000/app:1.5@sha256:" + "0" * 64


def scalar(data: bytes, *path: str | int, document: int = 0) -> Scalar:
    problems = Problems()
    node = find(read_documents("a.yaml", data, problems)[document], path)
    assert not problems
    assert isinstance(node, Scalar)
    return node


def change(text: str, *path: str | int) -> str:
    data = text.encode()
    return edited("a.yaml", data, {scalar(data, *(path or ("pull",))): NEW}).decode()


@pytest.mark.parametrize(
    "text",
    [
        "pull: OLD\n",
        "pull:   OLD   # why \u00e9\n",
        "pull: 'OLD' # why\n",
        'pull: "OLD"',
        "{pull: OLD, track: {semver: '>=1'}}",
        '{"pull":"OLD","x":[1,2]}',
        "pull:\n  OLD\n",
        "pull: |-\n  OLD\nx: y\n",
        "pull: >- # why\n     OLD\n\n# after\nx: y\n",
        "pull: |2-\n  OLD",
        "pull: &a OLD\nx: *a\n",
        "pull: &a # why\n  # and why\n  'OLD'\nx: *a\n",
        "? pull\n: OLD\n",
        "\ufeffpull: OLD\r\nx: 'a\r\n\r\n  b'\r\n",
        "pull: OLD\rx: y\r",
        "x: \U0001f600 \u2028 y\npull: OLD\n",
        "%YAML 1.2\n---\npull: OLD\n...\n",
    ],
)
def test_a_text_is_written_in_the_manner_of_the_old_one(text: str) -> None:
    assert change(text.replace("OLD", OLD)) == text.replace("OLD", NEW)


def test_what_is_quoted_over_several_lines_or_escaped_is_written_plainly() -> None:
    assert change('pull: "r.example.com:5000\\\n  /app:1.4" # why\nx: y\n') == f'pull: "{NEW}" # why\nx: y\n'
    assert change(f'pull: "{OLD.replace("/", chr(92) + "x2f")}"\n') == f'pull: "{NEW}"\n'


def test_only_the_document_and_the_place_that_were_meant_change() -> None:
    data = f"a: {OLD}\nb: [{OLD}, {OLD}]\n--- # next\na: {OLD}\n".encode()
    result = edited("a.yaml", data, {scalar(data, "b", 1): NEW, scalar(data, "a", document=1): f"{NEW}2"})
    assert result.decode() == f"a: {OLD}\nb: [{OLD}, {NEW}]\n--- # next\na: {NEW}2\n"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("pull: OLD\n", "[::1]:5000/app:1"),  # a list, without quotes
        ("pull: OLD\n", "true # no"),
        ("{pull: OLD}", "a, b: c"),
        ("pull: 'OLD'\n", "it's"),
        ("pull: OLD\n", "1\n2"),
        ("pull: OLD\n", "- a"),
    ],
)
def test_what_would_mean_something_else_is_refused(written: str, text: str) -> None:
    data = written.replace("OLD", OLD).encode()
    with pytest.raises(InvalidError, match=r"a\.yaml:1:\d+") as caught:
        edited("a.yaml", data, {scalar(data, "pull"): text})
    assert "by hand" in caught.value.hint


def test_a_block_of_several_lines_is_refused() -> None:
    data = b"pull: |\n  a\n  b\n"
    with pytest.raises(InvalidError, match="not one line alone"):
        edited("a.yaml", data, {scalar(data, "pull"): NEW})


def test_a_folded_block_whose_parts_are_comments_to_others_is_edited_in_its_line() -> None:
    assert change(f"pull: >-\n  {OLD}\n # not part of it\nx: y\n") == f"pull: >-\n  {NEW}\n # not part of it\nx: y\n"


# The law

_WORDS = st.text(st.sampled_from("abz '\"#:,[]{}&*!|>%@\\-?\u00e9\U0001f600.0"), max_size=12)
_GAP = st.sampled_from(["", "", "  # r.example/x:1", '\t# it\'s "odd" \u00e9', "   "])
_STYLES = ["plain", "single", "double", "escaped", "broken", "below", "literal", "folded"]


def _written(text: str, style: str, indent: str) -> str:
    """A value as it follows its key; ``indent`` is that of the lines below the key."""
    half = text.index("/m", text.index("/m") + 1)
    match style:
        case "single":
            return f" '{text}'"
        case "double":
            return f'  "{text}"'
        case "escaped":
            return f' "\\x{ord(text[0]):02x}{text[1:]}"'
        case "broken":
            return f' "{text[:half]}\\\n{indent}{text[half:]}"'
        case "below":
            return f" # here\n{indent}# and here\n{indent}{text}"
        case "literal":
            return f" |-\n{indent}{text}\n"
        case "folded":
            return f" >-  # why\n{indent}  {text}\n\n"
    return f" {text}"


@st.composite
def specs(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A spec, and by the name of its entry each reference: every line that it is written on says /mNa or /mNb."""
    lines: list[str] = []
    texts: dict[str, str] = {}
    anchors: list[str] = []
    step = draw(st.sampled_from([" ", "  ", "     "]))
    for number in range(draw(st.integers(1, 6))):
        name, text = f"e{number}", f"r.example/m{number}a/m{number}b:1"
        style, gap, word = draw(st.sampled_from(_STYLES)), draw(_GAP), draw(_WORDS)
        anchor = f" &a{number}" if draw(st.booleans()) else ""
        match draw(st.sampled_from(["noise", "entry", "entry", "short", "flow", "json", "alias"])):
            case "noise":
                quoted = word.replace("'", "''")
                noise = (
                    [f"{step}# {word}"],
                    ["", "   "],
                    [f"{step}{name}: {{import: '{quoted}'}}{gap}"],
                    [f"{step}{name}: |", f"{step}   pull: r.example/x:1", f"{step}    # {word}", ""],
                    [f'{step}{name}: ["q\\"", [b, {{c: d}}], 0x1f, yes, ~, 2001-01-01]'],
                )
                lines += draw(st.sampled_from(noise))
                continue
            case "alias":
                if anchors:
                    target = draw(st.sampled_from(anchors))
                    lines += [f"{step}{name}: {draw(st.sampled_from(['*', '{track: {newest: 1}, pull: *']))}a{target}"]
                    lines[-1] += " }" * ("{" in lines[-1]) + gap
                    texts[name] = texts[f"e{target}"]
                continue
            case "entry":
                end = "" if style in ("literal", "folded") else gap
                value = anchor + _written(text, style, step * 3) + end
                lines += [f"{step}{name}:{gap}", f"{step * 2}pull:{value}", f"{step * 2}track: {{newest: 1}}"]
            case "short":
                lines += [f"{step}{name}:{anchor}{_written(text, style, step * 2)}"]
            case "flow":
                style = style if style in ("single", "double", "escaped", "broken") else "plain"
                lines += [f"{step}{name}: {{x: [] ,pull:{anchor}{_written(text, style, step * 2)} }}{gap}"]
            case "json":
                lines += [f'{step}"{name}": {{"pull":"{text}","x":[1]}}{gap}']
                anchor = ""
        texts[name] = text
        anchors += [str(number)] * bool(anchor)
    document = "\n".join(["# top", "images:", f"{step}x-first: y", *lines]) + draw(st.sampled_from(["", "\n", "\n\n#"]))
    data = document.replace("\n", draw(st.sampled_from(["\n", "\r\n"]))).encode()
    return (b"\xef\xbb\xbf" + data if draw(st.booleans()) else data), texts


@given(specs(), st.data())
def test_law_nothing_changes_but_the_texts_that_were_to(
    spec: tuple[bytes, dict[str, str]], data: st.DataObject
) -> None:
    before, texts = spec
    problems = Problems()
    (root,) = read_documents("a.yaml", before, problems)
    assert not problems
    chosen: dict[Scalar, str] = {}
    for name, text in texts.items():
        node = find(root, ("images", name, "pull")) or find(root, ("images", name))
        assert isinstance(node, Scalar)
        assert node.text == text
        if node not in chosen and data.draw(st.booleans()):
            chosen[node] = f"r.example/n{len(chosen)}:2@sha256:{'ab' * 32}"

    after = edited("a.yaml", before, chosen)

    # As another reader than ours has it.
    replaced = {node.text: text for node, text in chosen.items()}
    assert yaml.load(after, yaml.CBaseLoader) == _with(yaml.load(before, yaml.CBaseLoader), replaced)
    marks = [text.removeprefix("r.example")[: len("/m0")].encode() for text in replaced]
    old = [line for line in before.split(b"\n") if not any(mark in line for mark in marks)]
    new = [line for line in after.split(b"\n") if not any(text.encode() in line for text in replaced.values())]
    assert new == old
    if all(text.encode() in before for text in replaced):
        # None was escaped or broken over lines: then what is around each is the same, too.
        back = after
        for text, other in replaced.items():
            back = back.replace(other.encode(), text.encode())
        assert back == before


def _with(value: Any, replaced: dict[str, str]) -> Any:
    """The value with texts replaced, below ``images``."""
    if isinstance(value, dict):
        return {key: _with(item, replaced) for key, item in value.items()}
    if isinstance(value, list):
        return [_with(item, replaced) for item in value]
    return replaced.get(value, value)
