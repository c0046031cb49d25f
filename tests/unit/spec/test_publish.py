"""What is published says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from reconciler.model.resources import Container
from reconciler.spec import publish
from reconciler.spec.examples import EXAMPLES
from reconciler.spec.load import load_specs
from reconciler.spec.schema import ComposeFile, Spec
from reconciler.spec.schema_container import Container as ContainerModel

REPOSITORY = Path(__file__).parents[3]
HEAD = "apiVersion: reconciler/v1\nstack: shop\n"


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = publish.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_published_files_are_up_to_date():
    for path, text in publish.publish(REPOSITORY / publish.DIRECTORY).items():
        assert path.read_text() == text, "run: python -m reconciler.spec.publish"


def test_check_tells_by_its_exit_code(tmp_path, capsys):
    target = str(tmp_path / "v1")
    assert publish.main(["--check", target]) == 1
    assert not (tmp_path / "v1").exists()
    assert publish.main([target]) == 0
    assert publish.main(["--check", target]) == 0
    (tmp_path / "v1/reference.md").write_text("")
    assert publish.main(["--check", target]) == 1
    assert "is out of date" in capsys.readouterr().err


def test_every_section_has_an_example():
    named = set(Spec.model_fields) - set(Spec.later_fields) - {"apiVersion", "stack"}
    assert named | {"services"} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_fit_the_schema(validator, name):
    validator.validate(yaml.safe_load(("" if name == "services" else HEAD) + EXAMPLES[name]))


def test_examples_load_together(here):
    for name in ("rootfs.tar.gz", "images.tar", "nginx.conf"):
        (here / name).write_bytes(bytes(1024))  # an archive of nothing
    (here / "a.yaml").write_text(HEAD + "".join(text for name, text in EXAMPLES.items() if name != "services"))
    (here / "compose.yaml").write_text(EXAMPLES["services"].replace("shop", "other").replace("8080", "8081"))
    desired = load_specs(["."], labels={"role": "web"}, secrets=False)
    assert desired.unsupported == ()
    assert desired.stacks == {"shop", "other"}


def test_the_whole_language_fits_the_schema(validator):
    validator.validate(yaml.safe_load((Path(__file__).parent / "whole.yaml").read_text()))


@pytest.mark.parametrize(
    "body",
    [
        "containers: {web: {imgae: x}}",
        "containers: {Web: {image: x}}",
        "containers: {web: {image: x, init: maybe}}",
        "containers: {web: {image: x, state: gone}}",
        "containers: {web: {image: x, working_dir: a}}",
        "mirrors: {docker.io: [{resolve: first}]}",
        "mirrors: {docker.io: true}",
        "mirrors: {from_host: [http://a:1]}",
        "contianers: {}",
        "retention: {images: {keep_generations: -1}}",
        "images: {a: [b]}",
    ],
)
def test_the_schema_refuses_mistakes(validator, body):
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(yaml.safe_load(HEAD + body))


@pytest.mark.parametrize(
    "body",
    [
        "containers: {web: {image: x, init: '${INIT}', mem_limit: 5, command: , x-note: [1]}}",
        "containers: {web: {image: x, ports: [80, '81:80'], depends_on: [a], networks: [b], env_file: c}}",
        "containers:\nimages:\n",
        "mirrors: {from_host: true, docker.io: [http://a:1]}",
        "mirrors: {from_host: '${FROM_HOST}'}",
        "syncs: {a: {from: b, tags: [x, 1.10], prune: true}}",
        "syncs: {a: {from: b, tags: {newest: 3, semver: '>=1'}, prune: {protect: [x.*], max_delete_share: 30%}}}",
        "syncs:\n",
    ],
)
def test_the_schema_accepts_what_the_loader_accepts(validator, body):
    validator.validate(yaml.safe_load(HEAD + body))


def test_every_link_of_the_reference_leads_somewhere():
    page = publish.reference()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", page, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= headings


def test_every_field_is_on_the_reference_page():
    page = publish.reference()
    for model in (Spec, ComposeFile, ContainerModel):
        for name, field in model.model_fields.items():
            assert f"`{field.alias or name}`" in page


def test_every_field_is_described():
    for model in (Spec, ComposeFile, ContainerModel):
        assert all(field.description for field in model.model_fields.values())


def test_every_resolved_field_of_a_container_is_in_the_language():
    renamed = {"mounts": "volumes"}
    for name in Container.__dataclass_fields__:
        assert renamed.get(name, name) in ContainerModel.model_fields


def test_importing_the_loader_does_not_import_pydantic():
    code = "import sys, reconciler.spec.load; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
