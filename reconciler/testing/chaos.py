"""A registry that holds what it should, and spoils its answers at random: the same seed spoils the same ones.

    with ChaoticRegistry(random.Random(7), rate=0.3) as registry:
        registry.blobs[digest] = data
        registry.manifests["1"] = (media_type, manifest)

``spoiled`` names the faults that made bytes wrong or useless since it was last cleared, and ``sent`` counts the bytes
of blobs that went out: with those a test can tell waste from misfortune.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from reconciler.oci.digest import Digest
from reconciler.testing.recorded import Asked
from reconciler.testing.scripted_registry import ScriptedRegistry, Step

STALL = 0.6
"""Seconds that it may keep a client waiting for an answer."""
_RANGE = re.compile(r"bytes=(\d+)-")


class ChaoticRegistry(ScriptedRegistry):
    """Serves ``blobs``, ``manifests`` (by tag and digest) and ``/token``; ``rate`` is the share of spoiled answers.

    ``hostile`` makes all else that it serves wrong; ``breaking`` is the share of its blobs that break off midway.
    ``realm`` makes it ask for a token from there, ``elsewhere`` is where it sends people for blobs now and then.
    """

    def __init__(
        self,
        choice: random.Random,
        rate: float,
        *,
        realm: str = "",
        elsewhere: str = "",
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(certificate)
        self._choice = choice
        self.rate = rate
        self.realm = realm
        self.elsewhere = elsewhere
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.spoiled: list[str] = []
        self.sent = 0
        self.hostile = False
        self.breaking = 0.0
        self._one = threading.Lock()
        self._tokens = 0

    def answer(self, asked: Asked) -> Step:
        """What the request deserves, or something worse."""
        with self._one:
            self.asked.append(asked)
            step = self._honest(asked)
            if self._choice.random() < self.rate:
                step = self._worse(asked, step)
            elif self.hostile and step.status in (200, 206) and "/token" not in asked.line:
                step = self._wrong_bytes(step)
            if "/blobs/" in asked.line and step.status in (200, 206) and isinstance(step.body, bytes):
                if step.cut is None and self._choice.random() < self.breaking:
                    step = self._cut(asked, step)
                self.sent += _length(step)
            return step

    def _honest(self, asked: Asked) -> Step:
        path = asked.line.split(" ", 1)[1].partition("?")[0]
        name = path.rpartition("/")[2]
        if path == "/token":
            self._tokens += 1
            return Step(200, b'{"token": "token-%d-%d", "expires_in": 60}' % (id(self), self._tokens))
        if self.realm and not asked.headers.get("authorization", "").startswith("Bearer token-"):
            return self._challenge()
        if "/manifests/" in path and name in self.manifests:
            media_type, data = self.manifests[name]
            return Step(200, data, {"Content-Type": media_type, "Docker-Content-Digest": Digest.of(data)})
        if name not in self.blobs:
            return Step(404, b'{"errors": [{"code": "UNKNOWN", "message": "unknown"}]}')
        data = self.blobs[name]
        if self.elsewhere and path.startswith("/v2/") and self._choice.random() < 0.5:
            return Step(307, b"", {"Location": f"{self.elsewhere}/blobs/{name}?signature=x"})
        if (match := _RANGE.match(asked.headers.get("range", ""))) and int(match[1]) < len(data):
            start = int(match[1])
            return Step(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
        return Step(200, data)

    def _challenge(self) -> Step:
        return Step(401, b"", {"WWW-Authenticate": f'Bearer realm="{self.realm}",service="chaos"'})

    def _worse(self, asked: Asked, step: Step) -> Step:
        faults: list[Callable[[Asked, Step], Step]] = [
            self._cut,
            self._cut,
            self._cut,
            self._late,
            self._not_now,
            self._reset,
            self._astray,
            self._refused,
            self._wrong,
            self._wrong_length,
            self._no_range,
        ]
        return self._choice.choice(faults)(asked, step)

    def _cut(self, _asked: Asked, step: Step) -> Step:
        assert isinstance(step.body, bytes)
        length = self._choice.choice([None, -1]) if step.body else None
        return replace(step, cut=self._choice.randint(0, len(step.body)), length=length)

    def _late(self, _asked: Asked, step: Step) -> Step:
        """A little, or longer than anybody waits."""
        seconds = self._choice.choice([0.002] * 19 + [STALL])
        if seconds == STALL:
            self.spoiled.append("time")
        return replace(step, before=lambda: threading.Event().wait(seconds))

    def _not_now(self, _asked: Asked, _step: Step) -> Step:
        wait = self._choice.choice([{}, {"Retry-After": "1"}, {"Retry-After": "soon"}])
        return Step(self._choice.choice([429, 500, 502, 503, 504, 408]), b"not now", wait)

    def _reset(self, _asked: Asked, step: Step) -> Step:
        def fall() -> None:
            raise ConnectionResetError

        return replace(step, body=b"", before=fall)

    def _astray(self, asked: Asked, _step: Step) -> Step:
        path = asked.line.split(" ", 1)[1]
        place = self._choice.choice([path, "/nowhere", "ftp://127.0.0.1/x", "http://[", "//", f"{self.elsewhere}/lost"])
        return Step(self._choice.choice([301, 302, 307, 308]), b"", {"Location": place})

    def _refused(self, _asked: Asked, _step: Step) -> Step:
        if self.realm and self._choice.random() < 0.5:
            return self._challenge()
        return Step(self._choice.choice([400, 401, 403, 404, 410, 416, 418]), b'{"errors": [{"code": "NO"}]}')

    def _wrong(self, _asked: Asked, step: Step) -> Step:
        return self._wrong_bytes(step)

    def _wrong_bytes(self, step: Step) -> Step:
        """Flipped, twice, or in another order; of the right length or not."""
        assert isinstance(step.body, bytes)
        if not step.body or step.status not in (200, 206):
            return step
        data = step.body
        first, second = sorted(self._choice.randint(0, len(data) - 1) for _ in range(2))
        flipped = data[:first] + bytes([data[first] ^ 1]) + data[first + 1 :]
        twice = data[:second] + data[first:]
        ordered = data[second:] + data[first:second] + data[:first]
        wrong = self._choice.choice([flipped, twice, ordered, twice[: len(data)], b"x" * len(data)])
        if wrong == data:
            return step
        self.spoiled.append("bytes")
        return replace(step, body=wrong)

    def _wrong_length(self, _asked: Asked, step: Step) -> Step:
        assert isinstance(step.body, bytes)
        self.spoiled.append("length")
        changed = self._choice.choice([-3, -1, 1, 1000])
        headers = dict(step.headers) if isinstance(step.headers, Mapping) else {}
        if step.status == 206:
            said = self._choice.choice(["bytes 0-9/10", "bytes 7-", "", f"bytes {changed}-9/99999999999999999999999"])
            return replace(step, headers=headers | {"Content-Range": said})
        if changed < 0:
            return replace(step, body=step.body[:changed])
        return replace(step, body=step.body + b"x" * changed)

    def _no_range(self, asked: Asked, step: Step) -> Step:
        """A server that forgot about ranges."""
        name = asked.line.partition("?")[0].rpartition("/")[2]
        if step.status != 206:
            return step
        self.spoiled.append("range")
        return Step(200, self.blobs[name])


def _length(step: Step) -> int:
    """How many bytes of its body go out."""
    assert isinstance(step.body, bytes)
    return len(step.body) if step.cut is None else min(step.cut, len(step.body))
