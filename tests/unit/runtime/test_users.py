"""USER in all its forms, against an image's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import RuntimeFailure
from reconciler.linux.rooted import Rooted
from reconciler.runtime.users import User, resolve_user

_PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nbad:x:-5:0::/:\n"
_GROUP = "root:x:0:root\nstaff:x:50:app,other\napp:x:1001:app\nwheel:x:10:root\n"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(_PASSWD)
    (tmp_path / "etc/group").write_text(_GROUP)
    return tmp_path


def resolve(image: Path, text: str) -> User:
    with Rooted(image) as root:
        return resolve_user(root, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", User(0, 0, (10,), "/root")),
        ("app", User(1000, 1001, (50,), "/home/app")),  # X32
        ("1000", User(1000, 1001, (50,), "/home/app")),  # X34
        ("4000", User(4000, 0, (), "/")),
        ("app:staff", User(1000, 50, (), "/home/app")),  # X35
        ("app:50", User(1000, 50, (), "/home/app")),
        ("app:777", User(1000, 777, (), "/home/app")),
        ("4000:4001", User(4000, 4001, (), "/")),
        (":staff", User(0, 50, (), "/root")),
    ],
)
def test_x32_x34_x35_forms(image, text, expected):
    assert resolve(image, text) == expected


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", "bad", "4294967296", "9" * 5000, "1:4294967296", "-1", "١"])
def test_x37_unknown_names_and_wild_numbers(image, text):
    with pytest.raises(RuntimeFailure) as caught:
        resolve(image, text)
    assert caught.value.code == 125


def test_x37_passwd_missing(tmp_path):
    with pytest.raises(RuntimeFailure, match="app"):
        resolve(tmp_path, "app")
    assert resolve(tmp_path, "7") == User(7, 0)
    assert resolve(tmp_path, "") == User(0, 0)


def test_x38_a_link_is_followed_inside_the_image(image):
    outside = image.parent / "outside"
    outside.write_text("app:x:0:0::/:\n")
    (image / "etc/passwd").unlink()
    for target in ("../" * 20 + str(outside)[1:], str(outside)):
        (image / "etc/passwd").symlink_to(target)
        with pytest.raises(RuntimeFailure, match="not in the image"):
            resolve(image, "app")
        (image / "etc/passwd").unlink()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _gigabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def _directory(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [_fifo, _gigabyte, _directory, _loop])
@pytest.mark.timeout(5)
def test_x38_what_is_no_plain_file_is_refused_without_blocking(image, make):
    (image / "etc/passwd").unlink()
    make(image / "etc/passwd")
    with pytest.raises(RuntimeFailure, match="/etc/passwd"):
        resolve(image, "app")
