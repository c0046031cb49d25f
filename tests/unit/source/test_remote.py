"""What may reach git's command line: URLs (G01), refs (G02), paths (G05), and that credentials do not (G08)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import InvalidError
from reconciler.source.command import printable, redacted
from reconciler.source.remote import Credential, is_commit, parse_path, parse_ref, parse_remote


@pytest.mark.parametrize(
    ("text", "url", "transport"),
    [
        ("https://example.com/team/specs.git", "https://example.com/team/specs.git", "https"),
        ("https://example.com:8443/s", "https://example.com:8443/s", "https"),
        ("https://[::1]:8443/s", "https://[::1]:8443/s", "https"),
        ("ssh://git@example.com:2222/s.git", "ssh://git@example.com:2222/s.git", "ssh"),
        ("ssh://example.com/s.git", "ssh://example.com/s.git", "ssh"),
        ("git@example.com:team/specs.git", "git@example.com:team/specs.git", "ssh"),
    ],
)
def test_g01_urls_of_allowed_transports(text: str, url: str, transport: str) -> None:
    remote = parse_remote(text)
    assert (remote.url, remote.transport, remote.credential) == (url, transport, None)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "-oProxyCommand=touch /tmp/x",
        "--upload-pack=touch /tmp/x",
        "ext::sh -c 'touch /tmp/x'",
        "ext::sh",
        "fd::7",
        "file:///srv/specs",
        "http://example.com/s",
        "git://example.com/s",
        "ftp://example.com/s",
        "https:///s",
        "https://example.com",
        "https://example.com/",
        "https://example.com/s?token=x",
        "https://example.com/s#x",
        "https://-oProxyCommand=x/s",
        "https://exa mple.com/s",
        "https://example.com/s\nx",
        "https://example.com:99999/s",
        "ssh://-oProxyCommand=touch@example.com/s",
        "ssh://-oProxyCommand=touch/s",
        "ssh://git:secret@example.com/s",
        "-oProxyCommand=x@example.com:s",
        "git@-oProxyCommand=x:s",
        "git@example.com:-x",
        "/srv/\0specs",
    ],
)
def test_g01_anything_else_is_refused(text: str, local: bool) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_remote(text, local=local)
    assert caught.value.hint


def test_g01_a_local_path_only_from_the_command_line() -> None:
    with pytest.raises(InvalidError, match="srv/specs"):
        parse_remote("/srv/specs")
    assert parse_remote("/srv/specs", local=True).transport == "file"
    assert parse_remote("specs", local=True).url == str(Path.cwd() / "specs")


def test_g08_a_credential_in_a_url_is_kept_apart_and_never_shown() -> None:
    remote = parse_remote("https://ci:s%40cret@example.com/s.git")
    assert remote.url == "https://example.com/s.git"
    assert remote.credential is not None
    assert (remote.credential.username, remote.credential.password) == ("ci", "s@cret")
    assert "cret" not in repr(remote)


@pytest.mark.parametrize(
    "text", ["https://ci:hunter2@example.com", "https://ci:hunter2@exa mple/s", "http://ci:hunter2@h/s", "x:hunter2@"]
)
def test_g08_errors_about_a_url_do_not_repeat_its_credential(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_remote(text)
    assert "hunter2" not in str(caught.value) + caught.value.hint


def test_g08_what_git_says_is_redacted() -> None:
    text = "fatal: unable to access 'https://ci:hunter2@example.com/s': hunter2 ci"
    assert "hunter2" not in redacted(text, Credential("ci", "hunter2"))
    assert "other" not in redacted("https://me:other@example.com", None)


def test_g37_what_git_says_cannot_forge_lines() -> None:
    assert printable("remote: \x1b[31mred\x1b[0m\r\nlevel=error\u202e\n") == "remote: ?[31mred?[0m; level=error?"


@pytest.mark.parametrize("ref", ["main", "feature/x", "v1.2", "refs/heads/main", "refs/tags/v1", "HEAD", "a" * 40])
def test_g02_refs(ref: str) -> None:
    assert parse_ref(ref) == ref


@pytest.mark.parametrize(
    "ref",
    ["", "--upload-pack=x", "..", "a..b", "a\\b", "refs/heads/../../config", "refs/heads", "/a", "a/", "a//b", "a b",
     "a~1", "a^", "a:b", "a?", "a*", "a[", "a@{1}", "@", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "a\0b", "a" * 256],
)  # fmt: skip
def test_g02_what_is_no_ref_is_refused(ref: str) -> None:
    with pytest.raises(InvalidError):
        parse_ref(ref)


@given(st.text(alphabet="ab./-@{}~^:?*[\\ \x7flock", min_size=1, max_size=12))
def test_g02_what_we_accept_git_accepts(ref: str) -> None:
    try:
        parse_ref(ref)
    except InvalidError:
        return
    name = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
    assert subprocess.run(["git", "check-ref-format", name]).returncode == 0


def test_a_commit_is_a_full_id() -> None:
    assert is_commit("0" * 40)
    assert is_commit("0" * 64)
    assert not is_commit("0" * 39)
    assert not is_commit("HEAD")


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "a/..", "/etc", "a\0b"])
def test_g05_paths_that_lead_out_are_refused(path: str) -> None:
    with pytest.raises(InvalidError):
        parse_path(path)


def test_paths_are_normalised() -> None:
    assert [parse_path(text) for text in ("", ".", "./deploy/", "a//b")] == ["", "", "deploy", "a/b"]
