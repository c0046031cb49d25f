"""Specs from a repository, with the real git command on local repositories."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from pathlib import Path

import pytest

from reconciler.errors import HostError, InvalidError, NotFoundError, RefusedError
from reconciler.model.address import Address
from reconciler.model.resources import Container
from reconciler.oci.archives import HEAD
from reconciler.source.command import Git, GitOptions
from reconciler.source.git import GitSource
from reconciler.source.port import Revision
from reconciler.source.remote import Remote, parse_remote
from reconciler.source.trees import sweep_exports
from reconciler.spec.load import load_specs
from reconciler.testing.repositories import UpstreamRepository


@pytest.fixture
def upstream(tmp_path: Path) -> UpstreamRepository:
    return UpstreamRepository(tmp_path / "upstream")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def _source(upstream: UpstreamRepository, root: Path, ref: str = "main", path: str = "", **more: object) -> GitSource:
    remote = parse_remote(str(upstream.path), local=True)
    return GitSource(remote, root=root, ref=ref, path=path, **more)  # type: ignore[arg-type]


def _read(revision: Revision) -> dict[str, str]:
    return {file.path: file.data.decode() for file in revision.tree.find(revision.paths, revision.recursive)}


def _files(source: GitSource) -> dict[str, str]:
    return _read(source.read())


def test_reads_the_specs_of_one_directory_at_the_newest_commit(upstream: UpstreamRepository, root: Path) -> None:
    commit = upstream.commit({"d/a.yaml": "a", "d/.b.yaml": "b", "d/sub/c.json": "c", "e.yaml": "e", "d/notes": ""})
    source = _source(upstream, root, path="d")
    assert source.read().id == commit
    assert _files(source) == {"d/a.yaml": "a"}
    assert _files(_source(upstream, root, path="d", recursive=True)) == {"d/a.yaml": "a", "d/sub/c.json": "c"}
    assert _files(_source(upstream, root)) == {"e.yaml": "e"}
    assert _files(_source(upstream, root, path="d/sub/c.json")) == {"d/sub/c.json": "c"}
    assert source.identity == f"git:{upstream.path}#d"


def test_names_with_odd_characters_arrive_whole(upstream: UpstreamRepository, root: Path) -> None:
    upstream.commit({'a b\n\t"ü*.yaml': "x", ":(top)x.yaml": "y", "-x.yaml": "z"})
    assert _files(_source(upstream, root)) == {'a b\n\t"ü*.yaml': "x", ":(top)x.yaml": "y", "-x.yaml": "z"}


def test_refs_branches_tags_full_names_and_commits(upstream: UpstreamRepository, root: Path) -> None:
    first = upstream.commit({"a.yaml": "1"})
    upstream.git("tag", "-a", "-m", "x", "v1")
    upstream.git("tag", "both")
    upstream.git("branch", "other")
    second = upstream.commit({"a.yaml": "2"})
    upstream.git("branch", "both")
    expected = {"v1": first, "refs/tags/v1": first, "other": first, first: first, "HEAD": second, "both": second}
    assert {ref: _source(upstream, root, ref=ref).read().id for ref in expected} == expected


def test_g13_what_is_missing_is_named(upstream: UpstreamRepository, root: Path) -> None:
    upstream.commit({"a.yaml": "1"})
    with pytest.raises(NotFoundError, match="no ref gone"):
        _source(upstream, root, ref="gone").read()
    with pytest.raises(NotFoundError, match=r"nowhere in commit .* does not exist"):
        _files(_source(upstream, root, path="nowhere"))
    with pytest.raises(HostError, match="ls-remote"):
        GitSource(parse_remote(str(root / "no"), local=True), root=root).read()


def test_an_empty_repository_is_an_error_and_not_an_empty_set(upstream: UpstreamRepository, root: Path) -> None:
    with pytest.raises(NotFoundError):
        _source(upstream, root).read()


def test_g17_of_many_commits_only_the_newest_is_read(upstream: UpstreamRepository, root: Path) -> None:
    source = _source(upstream, root)
    upstream.commit({"a.yaml": "0"})
    source.read()
    for number in range(1, 6):
        newest = upstream.commit({"a.yaml": str(number)})
    assert source.read().id == newest
    assert _files(source) == {"a.yaml": "5"}


@pytest.mark.parametrize("target", ["/etc/shadow", "../../other", "b.yaml"])
def test_g04_a_spec_that_is_a_link_is_refused_by_name(upstream: UpstreamRepository, root: Path, target: str) -> None:
    (upstream.path / "a.yaml").symlink_to(target)
    commit = upstream.commit({"b.yaml": "b"})
    with pytest.raises(InvalidError, match=f"a.yaml in commit {commit[:12]} is a symbolic link"):
        _files(_source(upstream, root))


def test_g04_a_directory_that_is_a_link_is_refused(upstream: UpstreamRepository, root: Path) -> None:
    (upstream.path / "prod").symlink_to("/etc")
    upstream.commit({"base/a.yaml": "name: ../prod/passwd"})
    with pytest.raises(InvalidError, match=r"prod in commit .* is a symbolic link"):
        _files(_source(upstream, root, path="prod"))
    tree = _source(upstream, root, path="base").read().tree
    for name in ("../prod", "../prod/passwd"):
        with pytest.raises(InvalidError, match=r"prod in commit .* is a symbolic link"):
            tree.export("base", name)


def test_g04_an_exported_directory_may_link_only_inside(upstream: UpstreamRepository, root: Path) -> None:
    (upstream.path / "good").mkdir()
    (upstream.path / "bad").mkdir()
    (upstream.path / "good/current").symlink_to("v1/conf")
    (upstream.path / "bad/x").symlink_to("../good/v1")
    upstream.commit({"a.yaml": "", "good/v1/conf": "text", "bad/y": ""})
    tree = _source(upstream, root).read().tree
    with pytest.raises(InvalidError, match=r"bad/x in commit .* is a symbolic link to '../good/v1', outside bad"):
        tree.export("", "bad")
    place = Path(tree.export("", "good")[0])
    tree.write_exports()
    assert (place / "current").readlink() == Path("v1/conf")
    assert (place / "current").read_text() == "text"


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "x/../../../y", "a\0b"])
def test_g05_named_paths_stay_in_the_repository(upstream: UpstreamRepository, root: Path, name: str) -> None:
    upstream.commit({"d/a.yaml": ""})
    tree = _source(upstream, root, path="d").read().tree
    for call in (tree.export, lambda directory, path: tree.content(directory, path, lambda _head: None)):
        with pytest.raises(InvalidError, match="leads out of the repository"):
            call("d", name)


@pytest.mark.parametrize("name", ["..", ".git"])
def test_g05_a_tree_with_names_that_escape_is_refused(upstream: UpstreamRepository, root: Path, name: str) -> None:
    blob = upstream.git("hash-object", "-w", "--stdin", stdin="evil")
    inner = upstream.git("mktree", stdin=f"100644 blob {blob}\tx.yaml\n")
    # Made by hand: git itself refuses to write such a tree.
    raw = b"40000 " + name.encode() + b"\0" + bytes.fromhex(inner)
    (upstream.path / "raw").write_bytes(raw)
    outer = upstream.git("hash-object", "-w", "-t", "tree", "--literally", "raw")
    commit = upstream.git("commit-tree", "-m", "evil", outer)
    upstream.git("update-ref", "refs/heads/main", commit)
    with pytest.raises((HostError, InvalidError)) as caught:
        _files(_source(upstream, root))
    assert caught.value.hint


def test_submodules_are_not_followed(upstream: UpstreamRepository, root: Path) -> None:
    commit = upstream.commit({"a.yaml": "", ".gitmodules": '[submodule "m"]\n path = m\n url = https://h/x\n'})
    upstream.git("update-index", "--add", "--cacheinfo", f"160000,{commit},m")
    upstream.git("commit", "--quiet", "--message=submodule")
    source = _source(upstream, root)
    assert _files(source) == {"a.yaml": ""}
    with pytest.raises(InvalidError, match=r"m in commit .* is a submodule"):
        source.read().tree.export("", "m/x")


def test_g10_a_rewritten_branch_is_refused_unless_allowed(upstream: UpstreamRepository, root: Path) -> None:
    first = upstream.commit({"a.yaml": "1"})
    second = upstream.commit({"a.yaml": "2"})
    source = _source(upstream, root)
    source.accept(source.read())
    for target in ("older", "unrelated"):
        if target == "unrelated":
            upstream.git("checkout", "--quiet", "--orphan", "new")
            upstream.commit({"a.yaml": "3"})
            upstream.git("branch", "--force", "main", "new")
        else:
            upstream.git("reset", "--quiet", "--hard", first)
        with pytest.raises(RefusedError, match=f"was rewritten: .* does not follow {second}"):
            source.read()
    good = source.last_good()
    assert good is not None
    assert good.id == second
    assert _source(upstream, root, allow_rewrite=True).read().id == upstream.git("rev-parse", "main")


def test_g10_a_bad_commit_that_was_never_accepted_may_be_rewritten(upstream: UpstreamRepository, root: Path) -> None:
    first = upstream.commit({"a.yaml": "1"})
    source = _source(upstream, root)
    source.accept(source.read())
    upstream.commit({"a.yaml": "does not parse"})
    source.read()
    upstream.git("reset", "--quiet", "--hard", first)
    fixed = upstream.commit({"a.yaml": "2"})
    assert source.read().id == fixed


def test_g13_g26_the_last_good_commit_survives_a_restart_and_a_dead_remote(
    upstream: UpstreamRepository, root: Path
) -> None:
    good = upstream.commit({"a.yaml": "good", "conf/x": "old"})
    source = _source(upstream, root)
    assert source.last_good() is None
    source.accept(source.read())
    upstream.commit({"a.yaml": "bad", "conf/x": "new"})
    source.read()
    upstream.path.rename(upstream.path.with_name("away"))
    again = _source(upstream, root)
    with pytest.raises(HostError):
        again.read()
    revision = again.last_good()
    assert revision is not None
    assert (revision.id, _read(revision)) == (good, {"a.yaml": "good"})
    assert revision.tree.read("", "conf/x", 10) == b"old"


def test_what_a_killed_git_left_does_not_stop_the_next(upstream: UpstreamRepository, root: Path) -> None:
    upstream.commit({"a.yaml": "1"})
    source = _source(upstream, root)
    source.accept(source.read())
    (directory,) = (root / "git").iterdir()
    reference = next(path for path in (directory / "refs/reconciler").rglob("*") if path.is_file())
    left = [
        directory / "config.lock",
        reference.with_name(reference.name + ".lock"),
        directory / "objects/pack/tmp_pack_x",
    ]
    for path in left:
        path.write_text("")
    newest = upstream.commit({"a.yaml": "2"})
    again = _source(upstream, root)
    again.accept(again.read())
    good = again.last_good()
    assert good is not None
    assert good.id == newest
    assert not any(path.exists() for path in left)


def test_hostile_settings_hooks_and_attributes_run_nothing(
    upstream: UpstreamRepository, root: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    run = f"touch {marker}; cat"
    for key in ("filter.x.smudge", "filter.x.clean", "filter.x.process", "core.fsmonitor", "core.sshCommand",
                "uploadpack.packObjectsHook", "core.pager", "alias.upload-pack", "diff.x.textconv"):  # fmt: skip
        upstream.git("config", key, "!" + run if key.startswith("alias") else run)
    hooks = upstream.path / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    upstream.git("config", "--unset", "core.fsmonitor")
    upstream.git("config", "--remove-section", "filter.x")
    upstream.commit({".gitattributes": "* filter=x diff=x export-subst\n", "a.yaml": "$Format:%H$", "c/x": "1"})
    upstream.git("config", "core.fsmonitor", run)
    upstream.git("config", "filter.x.smudge", run)
    for hook in ("post-checkout", "reference-transaction", "post-merge", "pre-auto-gc", "post-update"):
        (hooks / hook).write_text(f"#!/bin/sh\n{run}\n")
        (hooks / hook).chmod(0o755)
    source = _source(upstream, root)
    revision = source.read()
    source.accept(revision)
    revision.tree.export("", "c")
    revision.tree.write_exports()
    assert _read(revision) == {"a.yaml": "$Format:%H$"}
    assert not marker.exists()


def test_the_users_settings_and_environment_do_not_take_part(
    upstream: UpstreamRepository, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.commit({"a.yaml": "1"})
    (tmp_path / ".gitconfig").write_text(f'[url "{tmp_path}/elsewhere"]\n insteadOf = {upstream.path}\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_EXEC_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    assert _files(_source(upstream, root)) == {"a.yaml": "1"}


def test_g01_git_itself_is_held_to_one_transport(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    # What the grammar would never let through.
    remote = Remote(f"ext::touch {marker}", "file")
    with pytest.raises(HostError, match="transport 'ext' not allowed"):
        Git(tmp_path / "none", GitOptions()).run("ls-remote", "--", remote.url, remote=remote)
    assert not marker.exists()


def test_exports_are_named_by_their_object_and_read_only(upstream: UpstreamRepository, root: Path) -> None:
    upstream.commit({"d/a.yaml": "", "d/conf/x": "1", "d/conf/deep/y": "2", "d/run.sh": "#!/bin/sh\n", "d/z": "z"})
    (upstream.path / "d/run.sh").chmod(0o755)
    upstream.commit({})
    source = _source(upstream, root, path="d")
    tree = source.read().tree
    found, id_ = tree.export("d", "./conf")
    assert id_ == upstream.git("rev-parse", "HEAD:d/conf")
    assert found == str(root / "trees" / id_)
    conf, run, z = Path(found), Path(tree.export("d", "run.sh")[0]), Path(tree.export("d", "./z")[0])
    assert not (root / "trees").exists()  # planning writes nothing
    tree.write_exports()
    assert (conf / "deep/y").read_text() == "2"
    assert run.read_text() == "#!/bin/sh\n"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (conf, conf / "x", run, z)]
    assert modes == [0o555, 0o444, 0o555, 0o444]
    before = conf.stat().st_ino
    upstream.commit({"d/a.yaml": "changed"})
    again = source.read().tree
    assert again.export("d", "conf") == (found, id_)
    again.write_exports()
    assert conf.stat().st_ino == before
    upstream.commit({"d/conf/x": "changed"})
    assert source.read().tree.export("d", "conf") != (found, id_)


def test_unfinished_and_unneeded_exports_are_swept(upstream: UpstreamRepository, root: Path) -> None:
    upstream.commit({"a.yaml": "", "conf/x": "1", "y": "2"})
    tree = _source(upstream, root).read().tree
    left = root / "trees/.abc.tmp/inner"
    left.mkdir(parents=True)
    left.chmod(0o555)
    conf, y = tree.export("", "conf")[1], tree.export("", "y")[1]
    tree.write_exports()
    assert {path.name for path in (root / "trees").iterdir()} == {conf, y}
    sweep_exports(root / "trees", {y})
    assert {path.name for path in (root / "trees").iterdir()} == {y}


def test_archives_count_by_content_and_are_exported_too(upstream: UpstreamRepository, root: Path) -> None:
    data = os.urandom(3 << 20)
    (upstream.path / "rootfs.tar").write_bytes(data)
    upstream.commit({"a.yaml": ""})
    tree = _source(upstream, root).read().tree
    heads: list[bytes] = []
    content = tree.content("", "./rootfs.tar", heads.append)
    assert data.startswith(heads[0])
    assert len(heads[0]) >= HEAD
    assert (content.sha256, content.size) == (hashlib.sha256(data).hexdigest(), len(data))
    tree.write_exports()
    assert Path(content.path).read_bytes() == data
    with pytest.raises(InvalidError, match="more than the 10 bytes"):
        tree.read("", "rootfs.tar", 10)
    with pytest.raises(NotFoundError, match=r"\.env in commit"):
        tree.read("", ".env", 10)


def test_specs_from_a_repository_load(upstream: UpstreamRepository, root: Path) -> None:
    text = "services: {web: {image: nginx, volumes: ['./conf:/etc/app:ro']}}\n"
    upstream.commit({"shop/compose.yaml": text, "shop/conf/x": "1"})
    revision = _source(upstream, root, path="shop").read()
    desired = load_specs(revision.paths, recursive=revision.recursive, tree=revision.tree)
    web = desired.resources[Address("container", "shop/web")]
    assert isinstance(web, Container)
    (mount,) = web.mounts
    assert mount.tree == upstream.git("rev-parse", "HEAD:shop/conf")


def test_g08_a_failed_fetch_shows_no_credential(root: Path) -> None:
    remote = parse_remote("https://ci:hunter2@127.0.0.1:9/specs.git")
    source = GitSource(remote, root=root)
    with pytest.raises(HostError, match=r"https://127\.0\.0\.1:9/specs\.git failed") as caught:
        source.read()
    assert "hunter2" not in str(caught.value) + repr(caught.value.__context__) + source.identity
    kept = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    assert not any(b"hunter2" in data for data in kept)


def test_a_pack_above_the_limit_is_refused(upstream: UpstreamRepository, root: Path) -> None:
    (upstream.path / "big").write_bytes(os.urandom(2 << 20))
    upstream.commit({"a.yaml": ""})
    with pytest.raises(HostError) as caught:
        _source(upstream, root, options=GitOptions(max_file_bytes=1 << 20)).read()
    assert "size" in caught.value.hint


def test_a_remote_that_never_answers_is_given_up(root: Path, tmp_path: Path) -> None:
    listener = tmp_path / "silent"
    listener.mkdir()
    os.mkfifo(listener / "HEAD")
    (listener / "objects").mkdir()
    (listener / "refs").mkdir()
    remote = parse_remote(str(listener), local=True)
    with pytest.raises(HostError, match=r"longer than 0.5 seconds"):
        GitSource(remote, root=root, options=GitOptions(timeout=0.5)).read()
    # Whoever reads the FIFO is a child of git's child: it must be gone too.
    deadline = time.monotonic() + 10
    while _has_reader(listener / "HEAD"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _has_reader(fifo: Path) -> bool:
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        assert error.errno == errno.ENXIO
        return False
    return True
