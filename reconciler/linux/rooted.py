"""Paths inside a root that its content controls.

``/etc/passwd`` of an image may be a symbolic link to the host's, a FIFO, or a gigabyte. Paths here are walked one
component at a time with descriptors and ``O_NOFOLLOW``: a link is read and followed inside the root, ``..`` goes back
to a directory that is held open and never above the root, so neither a link nor a rename during the walk leads outside.
This is what openat2's ``RESOLVE_IN_ROOT`` does, with one thing more that the kernel cannot do for mounts that are not
made yet: ``mounts`` says what will be mounted where.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from reconciler.value import dataclass

_MAX_LINKS = 40  # the kernel's own bound, path_resolution(7)
_OPATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Rooted:
    """A directory tree seen as ``/``. Methods raise ``OSError`` as the system calls would, with the path inside.

    ``mounts`` are pairs of (target inside, source on the host, or None for something empty); later ones lie above
    earlier ones. ``root`` itself is trusted.
    """

    def __init__(self, root: Path | str, mounts: Iterable[tuple[str, Path | None]] = ()) -> None:
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._mounts: dict[tuple[str, ...], Path | None] = {}
        try:
            for target, source in mounts:
                with self._walk(target) as place:  # a target may itself lead through links, and need not exist
                    self._mounts[place.names] = source
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._root)

    def resolve(self, path: str) -> str:
        """The path that ``path`` leads to: absolute inside the root, without links, ``.`` or ``..``."""
        with self._existing(path) as place:
            return place.path

    def locate(self, path: str) -> str:
        """As ``resolve``, but of what is missing the rest is taken by its letters."""
        with self._walk(path) as place:
            return place.path

    def stat(self, path: str) -> os.stat_result:
        """The status of what ``path`` leads to."""
        with self._existing(path) as place:
            return os.fstat(place.descriptor)

    def open_file(self, path: str) -> int:
        """A read-only descriptor of a regular file; the caller closes it. Anything else is refused unopened."""
        with self._existing(path) as place:
            mode = os.fstat(place.descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "Not a regular file", path)
            return os.open(f"/proc/self/fd/{place.descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self, path: str, limit: int) -> bytes:
        """The content of a regular file of at most ``limit`` bytes; EFBIG when it is larger."""
        with os.fdopen(self.open_file(path), "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, f"Larger than the {limit} bytes allowed", path)
        return data

    def makedirs(self, path: str, mode: int = 0o755) -> str:
        """Makes the directories of ``path`` that are missing, owned by root, and gives what ``resolve`` would.

        Below a mount nothing is made: what will be there is not ours to write.
        """
        with self._walk(path, make=mode) as place:
            if place.descriptor >= 0 and not stat.S_ISDIR(os.fstat(place.descriptor).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            return place.path

    @contextmanager
    def _existing(self, path: str) -> Iterator[_Place]:
        with self._walk(path) as place:
            if place.descriptor < 0:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            yield place

    @contextmanager
    def _walk(self, path: str, make: int | None = None) -> Iterator[_Place]:
        pending = path.split("/")[::-1]
        below: list[_Place] = [_Place((), self._root, mounted=False)]  # the directories from the root to here
        links = 0
        with ExitStack() as held:
            while pending:
                name = pending.pop()
                if name in ("", "."):
                    continue
                if name == "..":
                    below = below[:-1] or below
                    continue
                place = self._step(below[-1], name, make)
                below.append(place)
                if place.descriptor < 0:
                    continue  # what follows is missing too, and is taken by its letters
                held.callback(os.close, place.descriptor)
                mode = os.fstat(place.descriptor).st_mode
                if stat.S_ISLNK(mode):
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    target = os.readlink("", dir_fd=place.descriptor)
                    pending.extend(reversed(target.split("/")))
                    below = below[:1] if target.startswith("/") else below[:-1]
                elif pending and not stat.S_ISDIR(mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            yield below[-1]

    def _step(self, here: _Place, name: str, make: int | None) -> _Place:
        names = (*here.names, name)
        if names in self._mounts:
            source = self._mounts[names]
            return _Place(names, -1 if source is None else os.open(source, os.O_PATH | os.O_CLOEXEC), mounted=True)
        if here.descriptor < 0:
            return _Place(names, -1, here.mounted)
        try:
            return _Place(names, os.open(name, _OPATH, dir_fd=here.descriptor), here.mounted)
        except FileNotFoundError:
            if make is None or here.mounted:
                return _Place(names, -1, here.mounted)
        os.mkdir(name, make, dir_fd=here.descriptor)
        descriptor = os.open(name, _OPATH | os.O_DIRECTORY, dir_fd=here.descriptor)
        Path(f"/proc/self/fd/{descriptor}").chmod(make)  # mkdir took our umask off
        return _Place(names, descriptor, here.mounted)


@dataclass(frozen=True, slots=True)
class _Place:
    """A step of a walk: the names that lead here, and an O_PATH descriptor, or -1 where nothing is."""

    names: tuple[str, ...]
    descriptor: int
    mounted: bool

    @property
    def path(self) -> str:
        return "/" + "/".join(self.names)
