"""Dockerfile instructions that a commit takes."""

from __future__ import annotations

import pytest

from reconciler.cli.instructions import config_changes
from reconciler.errors import UsageError
from reconciler.model.resources import ConfigChanges


@pytest.mark.parametrize(
    ("instructions", "changes"),
    [
        (['CMD ["a", "b c"]'], ConfigChanges(cmd=("a", "b c"))),
        (["cmd echo $HOME"], ConfigChanges(cmd=("/bin/sh", "-c", "echo $HOME"))),
        (["CMD [ -f /x ] && y"], ConfigChanges(cmd=("/bin/sh", "-c", "[ -f /x ] && y"))),
        (["CMD []"], ConfigChanges(cmd=())),
        # The image's CMD was written for another entrypoint.
        (['ENTRYPOINT ["x"]'], ConfigChanges(entrypoint=("x",), cmd=())),
        (['CMD ["y"]', 'ENTRYPOINT ["x"]'], ConfigChanges(entrypoint=("x",), cmd=("y",))),
        (["ENV A=1 B='two words' C=a\\ b"], ConfigChanges(environment=(("A", "1"), ("B", "two words"), ("C", "a b")))),
        (["ENV A one  two"], ConfigChanges(environment=(("A", "one  two"),))),
        (["ENV A="], ConfigChanges(environment=(("A", ""),))),
        (["ENV A=\\$HOME B='$x'"], ConfigChanges(environment=(("A", "$HOME"), ("B", "$x")))),
        (["LABEL a.b=c", 'LABEL "d e"="f"'], ConfigChanges(labels=(("a.b", "c"), ("d e", "f")))),
        (["EXPOSE 80 53/UDP 8000-8002"], ConfigChanges(
            exposed_ports=("80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp")
        )),
        (["USER 1000:staff"], ConfigChanges(user="1000:staff")),
        (["WORKDIR /a", "WORKDIR b c"], ConfigChanges(working_dir="/a/b c")),
        (["VOLUME /a /b", 'VOLUME ["/c d"]'], ConfigChanges(volumes=("/a", "/b", "/c d"))),
        (["STOPSIGNAL 9"], ConfigChanges(stop_signal="9")),
    ],
)  # fmt: skip
def test_instructions_mean_what_docker_says(instructions: list[str], changes: ConfigChanges) -> None:
    assert config_changes(instructions) == changes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("RUN x", "no such instruction"),
        ("", "no such instruction"),
        ("HEALTHCHECK NONE", "no place"),
        ("onbuild RUN x", "no place"),
        ("CMD", "no value"),
        ("ENV A", "no value"),
        ("ENV A=1 B", "not K=V"),
        ("ENV A=$HOME", "variables"),
        ("LABEL a='b", "quote"),
        ("EXPOSE 0", "no port"),
        ("EXPOSE 9-8", "no port"),
        ("EXPOSE 70000", "no port"),
        ("USER a b", "one word"),
        ("VOLUME data", "absolute"),
        ("VOLUME /a/../b", "absolute"),
        ("STOPSIGNAL SIGNOTHING", "signal"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        config_changes(["ENV OK=1", text])
    assert ascii(text) in str(caught.value)
    assert caught.value.hint
