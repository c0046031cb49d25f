"""Where references of images stand in specs, and when they can be changed there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.resources import Container
from reconciler.oci.digest import Digest
from reconciler.spec.edit import edited
from reconciler.spec.load import load_specs
from reconciler.spec.pulls import PullText, obstacles, pull_texts, repinned
from reconciler.spec.stacks import Document

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
PIN = f"r.example/app:1@{ONE}"
HEAD = "apiVersion: reconciler/v1\nstack: shop\n"


@pytest.fixture
def texts(here: Path):
    """The references of one spec by their places in it; the head (two lines) is added unless ``head`` is false."""

    def read(body: str, *, head: bool = True, **variables: str) -> dict[str, PullText]:
        (here / "a.yaml").write_text((HEAD if head else "") + body)
        documents: list[Document] = []
        desired = load_specs(["a.yaml"], variables=variables, documents=documents)
        return {".".join(map(str, text.path)): text for text in pull_texts(documents, desired)}

    return read


def refusals(texts: dict[str, PullText], **wanted: str) -> dict[str, str]:
    """What stands in the way, by place, of these texts for those whose place begins so; others stay."""
    asked = {text: wanted.get(path.split(".")[1], text.text) for path, text in texts.items() if text.moves}
    found = obstacles(asked)
    return {path: str(found[text]) for path, text in texts.items() if text in found}


def test_every_place_that_names_an_image_by_its_reference_is_found(texts):
    found = texts(
        f"""\
images:
  long: {{pull: {PIN}, track: {{newest: 1}}}}
  short: {PIN}
  tracked: {{pull: r.example/app, track: {{newest: 1}}}}
  plain: r.example/app:1
  digest: r.example/app@{ONE}
containers:
  one: {{image: short}}
  two: {{image: '{PIN}'}}
  three: {{image: nginx}}
tags:
  r.example/copy:1: {PIN}
  r.example/copy:2: {{image: {PIN}}}
"""
    )
    assert {path: text.moves for path, text in found.items()} == {
        "images.long.pull": True,
        "images.short": True,
        "images.tracked.pull": True,
        "images.plain": False,
        "images.digest": False,
        "containers.two.image": True,
        "containers.three.image": False,
        "tags.r.example/copy:1": True,
        "tags.r.example/copy:2.image": True,
    }
    assert str(found["images.short"].location) == "a.yaml:5:10"
    assert str(found["containers.two.image"].address) == f"image/shop/{PIN}"


def test_a_compose_file_pins_in_its_services(texts):
    found = texts(f"name: shop\nservices:\n  web: {{image: '{PIN}'}}\n  db: {{image: 'nginx:1'}}\n", head=False)
    assert {path: text.moves for path, text in found.items()} == {
        "services.web.image": True,
        "services.db.image": False,
    }


@pytest.mark.parametrize(
    ("text", "pinned"),
    [
        ("nginx", "nginx:2"),
        ("nginx:1", "nginx:2"),
        (f"nginx@{ONE}", "nginx:2"),
        (f"docker.io/library/nginx:1@{ONE}", "docker.io/library/nginx:2"),
        (f"localhost:5000/app:1@{ONE}", "localhost:5000/app:2"),
        ("localhost:5000/app", "localhost:5000/app:2"),
        (f"[::1]:5000/app@{ONE}", "[::1]:5000/app:2"),
    ],
)
def test_a_pin_keeps_the_repository_as_it_is_written(text, pinned):
    assert repinned(text, "2", Digest(TWO)) == f"{pinned}@{TWO}"


def test_what_is_made_of_variables_cannot_be_changed_and_need_not_be_when_it_stays(texts):
    found = texts(f"images: {{a: 'r.example/${{NAME}}:1@{ONE}', b: '{PIN}'}}", NAME="app")
    assert found["images.a"].text == PIN
    assert refusals(found, a=PIN, b="x") == {}
    (told,) = refusals(found, a=f"r.example/app:1@{TWO}").values()
    assert told == f"the reference is made of variables, and should be r.example/app:1@{TWO}"


def test_an_anchor_can_be_changed_when_all_that_share_it_agree(texts):
    found = texts(f"x-ref: &ref {PIN}\nimages: {{a: *ref, b: {{pull: *ref}}}}\ncontainers: {{c: {{image: *ref}}}}\n")
    assert {text.node.line for text in found.values()} == {3}
    assert refusals(found, a="new", b="new", c="new") == {}
    told = refusals(found, a="new", b="new")
    assert set(told) == {"images.a", "images.b.pull"}
    assert "shared with containers.c.image by an anchor, and should be new here alone" in told["images.a"]


def test_an_anchor_that_means_something_else_too_is_left_alone(texts):
    body = f"images: {{a: &ref {PIN}}}\ncontainers: {{c: {{image: a, environment: {{IMAGE: *ref}}}}}}\n"
    assert "containers.c.environment.IMAGE" in refusals(texts(body), a="new")["images.a"]
    # The other tracks nothing and has no pin: it is the tag `latest`, and stays that.
    body = "images: {a: {pull: &ref r.example/app, track: {newest: 1}}, b: *ref}\n"
    assert "shared with images.b" in refusals(texts(body), a="new")["images.a.pull"]


def test_a_merged_reference_is_that_of_its_source(texts):
    found = texts(
        f"""\
x-base: &base {{pull: '{PIN}', track: {{newest: 1}}}}
images:
  a: {{<<: *base}}
  b: {{<<: *base, track: {{semver: ^1}}}}
"""
    )
    assert refusals(found, a="new", b="new") == {}
    assert set(refusals(found, a="new", b="newer")) == {"images.a.pull", "images.b.pull"}


# The law

NAMES = ("a", "b", "c", "d")


@st.composite
def shared(draw: st.DrawFn) -> str:
    """A spec whose references are shared in odd ways, with each other and with what is none."""
    lines, anchors = [], list[str]()

    def value(name: str) -> str:
        if anchors and draw(st.booleans()):
            return f"*{draw(st.sampled_from(anchors))}"
        anchors.append(f"r{name}")
        return f"&r{name} '{draw(st.sampled_from([PIN, 'r.example/app', PIN.replace(':1@', '@')]))}'"

    if draw(st.booleans()):
        lines.append(f"x-ref: {value('x')}")
    lines.append("images:")
    for name in NAMES:
        form = draw(
            st.sampled_from(["{name}: {text}", "{name}: {{pull: {text}}}", "{name}: &m{name} {{pull: {text}}}"])
        )
        lines.append("  " + form.format(name=name, text=value(name)))
    merged = [line.partition("&m")[2][0] for line in lines if "&m" in line]
    if merged:
        lines += [f"  e: {{<<: *m{draw(st.sampled_from(merged))}, pull_policy: always}}"]
    lines.append("containers:")
    for name in NAMES[:2]:
        image, variable = value(f"{name}1"), f"IMAGE: {value(f'{name}2')}" if draw(st.booleans()) else ""
        lines.append(f"  {name}: {{image: {image}, environment: {{{variable}}}}}")
    return HEAD + "\n".join(lines)


@given(shared(), st.data())
def test_law_what_can_be_changed_changes_nothing_else(tmp_path_factory, spec: str, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("law") / "a.yaml"

    def read(content: bytes) -> tuple[list[PullText], dict[str, object]]:
        path.write_bytes(content)
        documents: list[Document] = []
        desired = load_specs([str(path)], documents=documents)
        others = {str(a): item.environment for a, item in desired.resources.items() if isinstance(item, Container)}
        return pull_texts(documents, desired), others

    texts, others = read(spec.encode())
    wanted = {
        text: data.draw(st.sampled_from([text.text, f"r.example/app:2@{TWO}", f"r.example/app:3@{TWO}"]))
        for text in texts
        if text.moves
    }
    refused = obstacles(wanted)
    possible = {text: new for text, new in wanted.items() if text not in refused}
    now, others_now = read(edited("a.yaml", spec.encode(), {text.node: new for text, new in possible.items()}))
    assert [text.text for text in now] == [possible.get(text, text.text) for text in texts]
    assert others_now == others
