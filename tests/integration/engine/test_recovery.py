"""Roots that were left in the middle of something: the next turn puts them in order. Real runc, overlayfs, nftables."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.engine.embedded.containers.rows import ContainerRow
from reconciler.engine.embedded.engine import EmbeddedEngine
from reconciler.engine.embedded.machinery import Machinery
from reconciler.engine.embedded.perform import opener
from reconciler.engine.embedded.state import WriterState
from reconciler.errors import ConflictError, HostError, InvalidError, RuntimeFailure
from reconciler.linux import mounts
from reconciler.model.action import CommitImage, StartContainer
from reconciler.model.address import Address
from reconciler.model.resources import Commit, Container, FileContent, Import, Mount, Network, Port
from reconciler.oci.digest import Digest
from reconciler.testing.host import Host, forwarding
from reconciler.testing.images import busybox_archive

pytestmark = pytest.mark.root

NETWORK = Address("network", "shop/front")
SLEEPER = Container(
    Address("image", "shop/app"),
    command=("sleep", "3600"),
    networks=(NETWORK,),
    ports=(Port(80, 18080, "127.0.0.1"),),
    stop_signal="SIGKILL",
)


class Scene:
    """One root with an image and a network, looked at by one engine after the other."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.engine = EmbeddedEngine(host.root)
        archive = host.place / "rootfs.tar.gz"
        archive.write_bytes(busybox_archive())
        content = FileContent(str(archive), Digest.of(archive.read_bytes()).hex, archive.stat().st_size)
        with self.engine.turn(5):
            self.image = self.machinery.images.import_archive(Import(content), opener(content)).digest
            self.machinery.wiring.ensure(NETWORK, Network(), {})

    @property
    def machinery(self) -> Machinery:
        return self.engine.writer()

    def again(self) -> None:
        """As another process would find it."""
        self.engine.close()
        self.engine = EmbeddedEngine(self.host.root)

    def create(self, name: str, container: Container = SLEEPER) -> ContainerRow:
        """Needs the turn."""
        return self.machinery.containers.create(
            container, self.image, name=f"shop/{name}", address=Address("container", f"shop/{name}"), form={}
        )

    def start(self, name: str, container: Container = SLEEPER) -> ContainerRow:
        """Needs the turn."""
        row = self.create(name, container)
        self.machinery.containers.start(row)
        return self.machinery.state.containers.get(row.id)

    def left_of(self, row: ContainerRow) -> list[str]:
        """What a container has outside of ROOT/containers."""
        view = self.engine.view()
        places = (view.state.rootfs(row.id), view.state.netns(row.id), view.state.run / "tasks" / row.id)
        found = [str(place) for place in places if place.exists()]
        found += [f"port {port}" for port in view.wiring.published(row.id)]
        return found + [f"on {network}" for network in view.wiring.networks_of(row.id)]

    def rules_are_right(self) -> bool:
        wiring = self.engine.view().wiring
        return wiring.firewall.observe(wiring.firewall_state()) == ()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before, host = forwarding(), Host(tmp_path)
    made = Scene(host)
    yield made
    with made.engine.turn(5):
        for row in made.machinery.state.containers.all():
            made.machinery.containers.remove(row)
        made.machinery.wiring.remove(NETWORK)
    made.engine.close()
    left = host.close()
    forwarding(before)
    assert not left, "\n".join(left)


def test_a_commit_has_the_date_of_an_end_that_is_not_recorded_yet(scene: Scene) -> None:
    """Else the same layer would be another image in the pass after the one that its container ended in."""
    image = Address("image", "shop/made")
    action = CommitImage(image, Commit(Address("container", "shop/job")), None, {})
    digests = []
    with scene.engine.turn(5):
        row = scene.start("job", replace(SLEEPER, command=("true",), networks=(), ports=()))
        scene.machinery.containers.task(row).monitor.wait(10)
        digests.append(scene.engine.perform(action, lambda _: None).digest)
        assert scene.machinery.state.containers.get(row.id).finished_at is None
    scene.again()
    with scene.engine.turn(5):
        assert scene.machinery.state.containers.get(row.id).finished_at is not None
        scene.machinery.state.entries.drop(image)
        digests.append(scene.engine.perform(action, lambda _: None).digest)
    assert digests[0] == digests[1]


def test_the_end_of_a_container_that_was_recorded_but_not_cleared_away(scene: Scene) -> None:
    with scene.engine.turn(5):
        row = scene.start("web")
        scene.machinery.state.containers.update(row.id, finished_at=row.started_at, exit_code=0)
    assert scene.left_of(row)
    scene.again()
    with scene.engine.turn(5):
        assert scene.left_of(row) == []
        assert scene.rules_are_right()


def test_a_container_whose_row_went_first(scene: Scene) -> None:
    with scene.engine.turn(5):
        row = scene.create("web", replace(SLEEPER, mounts=(Mount("volume", "", "/data"),)))
        assert mounts.is_mounted(scene.machinery.state.rootfs(row.id))
        scene.machinery.state.containers.drop(row.id)
    with scene.engine.turn(5):
        assert scene.left_of(row) == []
        assert not list((scene.host.root / "containers").iterdir())
        assert not scene.machinery.state.volumes.all()


def test_x52_what_cannot_be_made_leaves_nothing(scene: Scene) -> None:
    broken = replace(SLEEPER, command=("no-such-program",), mounts=(Mount("volume", "", "/data"),))
    with scene.engine.turn(5):
        with pytest.raises(RuntimeFailure) as failure:
            scene.create("web", broken)
        assert failure.value.code == 127
        with pytest.raises(InvalidError):
            scene.create("web", replace(SLEEPER, stop_signal="SIGNOTHING"))
        assert not scene.machinery.state.volumes.all()
        assert not scene.machinery.state.containers.all()
        assert not list((scene.host.root / "containers").iterdir())
    assert not [trace for trace in scene.host.traces() if trace.startswith("mount ")]


def test_a_port_that_another_container_publishes_stays_with_it(scene: Scene) -> None:
    with scene.engine.turn(5):
        first = scene.start("web")
        for port in (Port(80, 18080, "127.0.0.1"), Port(80, 18080)):
            second = scene.create("other", replace(SLEEPER, ports=(port,)))
            with pytest.raises(ConflictError, match="shop/web"):
                scene.machinery.containers.start(second)
            assert scene.left_of(second) == []
            scene.machinery.containers.remove(second)
        assert len(scene.machinery.wiring.published(first.id)) == 1
        assert scene.rules_are_right()


def test_a_port_that_another_root_publishes_is_refused(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with scene.engine.turn(5):
        scene.start("web")
    host = Host(tmp_path / "other")
    other = Scene(host)
    try:
        with other.engine.turn(5), pytest.raises(ConflictError, match="another root"):
            other.start("web")
        with other.engine.turn(5):
            for row in other.machinery.state.containers.all():
                other.machinery.containers.remove(row)
            other.machinery.wiring.remove(NETWORK)
    finally:
        other.engine.close()
        left = host.close()
    assert not left, "\n".join(left)


def test_ports_without_a_number_get_different_ones(scene: Scene) -> None:
    with scene.engine.turn(5):
        row = scene.start("web", replace(SLEEPER, ports=(Port(80), Port(81), Port(82))))
        assert len({port.host_port for port in scene.machinery.wiring.published(row.id)}) == 3


def test_a_container_that_cannot_be_cleared_stands_in_nobodys_way(scene: Scene) -> None:
    with scene.engine.turn(5):
        row = scene.start("web", replace(SLEEPER, ports=()))
        busy = os.open(scene.machinery.state.rootfs(row.id), os.O_RDONLY | os.O_DIRECTORY)
        scene.machinery.runtime.kill(row.id)
        scene.machinery.runtime.wait(row.id)
    with scene.engine.turn(5):
        assert scene.machinery.state.containers.get(row.id).exit_code == 137
        assert mounts.is_mounted(scene.machinery.state.rootfs(row.id))
        assert not scene.machinery.state.netns(row.id).exists(), "the rest is taken away all the same"
        os.close(busy)
    with scene.engine.turn(5):
        assert scene.left_of(row) == []


def test_the_removal_of_a_network_that_was_cut_off_leaves_no_bridge(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = Address("network", "shop/gone")
    with scene.engine.turn(5):
        scene.machinery.wiring.ensure(address, Network(), {})
        bridge = scene.machinery.state.networks.all()[address].bridge
        scene.machinery.state.networks.drop(address)
        # A turn that is killed does not empty the log.
        monkeypatch.setattr(WriterState, "close_pass", lambda _self: None)
    assert (Path("/sys/class/net") / bridge).exists()
    monkeypatch.undo()
    with scene.engine.turn(5):
        assert not (Path("/sys/class/net") / bridge).exists()
        assert scene.rules_are_right()


def test_a_network_with_containers_on_it_is_not_removed(scene: Scene) -> None:
    with scene.engine.turn(5):
        scene.start("web")
        with pytest.raises(ConflictError):
            scene.machinery.wiring.remove(NETWORK)
        assert NETWORK in scene.machinery.state.networks.all()


def test_after_a_reboot_containers_have_ended_and_start_again(scene: Scene) -> None:
    with scene.engine.turn(5):
        row = scene.start("web")
    scene.again()
    scene.host._sweep()
    for code in (scene.host.root / "containers" / row.id / "exit").iterdir():
        code.unlink()  # nobody lived to write it when the power went
    assert scene.engine.view().containers.state_of(row).status == "exited"
    with scene.engine.turn(5):
        row = scene.machinery.state.containers.get(row.id)
        assert (row.finished_at is not None, row.exit_code) == (True, None)
        assert scene.left_of(row) == []
        assert scene.machinery.wiring.ensure(NETWORK, Network(), {})
        scene.machinery.containers.start(row)
        assert scene.machinery.containers.state_of(scene.machinery.state.containers.get(row.id)).running
        assert scene.rules_are_right()


def test_a_system_error_in_a_step_is_an_error_that_names_the_place(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", b"/run/full")

    with scene.engine.turn(5):
        row = scene.create("web")
        monkeypatch.setattr(scene.machinery.containers, "start", full)
        action = StartContainer(Address("container", "shop/web"), row.id)
        with pytest.raises(HostError, match="/run/full: No space left") as failure:
            scene.engine.perform(action, lambda _: None)
    assert "free space" in failure.value.hint
