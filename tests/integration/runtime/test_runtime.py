"""Containers on the real parts: runc under conmon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from reconciler.errors import HostError, NotFoundError, RuntimeFailure
from reconciler.linux.processes import ProcessId
from reconciler.runtime.runtime import Runtime
from reconciler.runtime.spec import MountSpec, ProcessSpec

pytestmark = pytest.mark.root


@pytest.mark.parametrize("code", [0, 3])
def test_x01_exit_code_is_recorded_once(host, code):
    spec = host.spec("sh", "-c", f"exit {code}")
    host.start(spec)
    state = host.runtime.wait(spec.id, 10)
    assert (state.status, state.exit_code, state.oom) == ("exited", code, False)
    assert host.runtime.state(spec.id) == state


def test_created_then_running_then_absent(host):
    spec = host.spec("sleep", "1000")
    assert host.runtime.state(spec.id).status == "absent"
    task = host.create(spec)
    assert host.runtime.state(spec.id).status == "created"
    host.runtime.start(spec.id)
    state = host.runtime.state(spec.id)
    assert (state.status, state.pid, state.exit_code, state.monitored) == ("running", task.pid, None, True)
    host.runtime.delete(spec.id)
    assert host.runtime.state(spec.id).status == "absent"
    assert not task.init.alive()
    host.runtime.delete(spec.id)


def test_x02_bad_mount_is_125_and_leaves_nothing(host):
    spec = host.spec("true", mounts=(MountSpec("/no/such/place", "/data"),))
    with pytest.raises(RuntimeFailure, match="/no/such/place") as caught:
        host.create(spec)
    assert caught.value.code == 125
    assert host.runtime.ids() == ()


def test_x02_error_of_runc_is_passed_on_and_leaves_nothing(host):
    spec = host.spec("true", mounts=(MountSpec("none", "/data", kind="nosuchfs"),))
    with pytest.raises(RuntimeFailure, match="/data") as caught:
        host.create(spec)
    assert caught.value.code == 125
    assert host.runtime.ids() == ()


def test_x04_missing_program_is_127_before_anything_is_made(host):
    with pytest.raises(RuntimeFailure, match="nginx") as caught:
        host.create(host.spec("nginx"))
    assert caught.value.code == 127
    assert host.runtime.ids() == ()


def test_program_in_a_bind_mount_is_found_through_a_link(host, tmp_path):
    tool = tmp_path / "tools" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexit 7\n")
    tool.chmod(0o755)
    spec = host.spec("tool", mounts=(MountSpec(str(tool.parent), "/opt/tools", read_only=True),))
    (spec.rootfs / "bin" / "tool").symlink_to("/opt/tools/tool")
    host.start(spec)
    assert host.runtime.wait(spec.id, 10).exit_code == 7


_EAT_MEMORY = "x=a; while true; do x=$x$x; done"


def test_x07_memory_limit_is_137_and_oom(host):
    spec = host.spec("sh", "-c", _EAT_MEMORY, memory_limit=16 << 20)
    host.start(spec)
    state = host.runtime.wait(spec.id, 20)
    assert (state.exit_code, state.oom) == (137, True)


def test_x07_oom_is_seen_when_only_a_child_was_killed(host):
    spec = host.spec("sh", "-c", f"sh -c '{_EAT_MEMORY}'; exit 4", memory_limit=16 << 20)
    host.start(spec)
    state = host.runtime.wait(spec.id, 20)
    assert (state.exit_code, state.oom) == (4, True)


def test_x08_kill_from_outside_is_137_and_no_oom(host):
    spec = host.spec("sleep", "1000")
    task = host.start(spec)
    os.kill(task.pid, signal.SIGKILL)
    state = host.runtime.wait(spec.id, 10)
    assert (state.exit_code, state.oom) == (137, False)


def test_x13_term_without_a_handler_needs_the_timeout(host):
    spec = host.spec("sleep", "1000")
    host.start(spec)
    begin = time.monotonic()
    state = host.runtime.stop(spec.id, signal.SIGTERM, 0.3)
    assert state.exit_code == 137
    assert time.monotonic() - begin >= 0.3


def test_x13_init_passes_the_signal_on(host):
    spec = host.spec("sleep", "1000", init=True)
    task = host.start(spec)
    host.until(lambda: b"sleep" in subprocess.run(["ps", "--ppid", str(task.pid)], capture_output=True).stdout)
    assert host.runtime.stop(spec.id, signal.SIGTERM, 10).exit_code == 143


def _zombies(task) -> int:
    listing = subprocess.run(["ps", "--ppid", str(task.pid), "-o", "stat="], capture_output=True, text=True).stdout
    return sum(line.startswith("Z") for line in listing.splitlines())


# A child that leaves an orphan, then a first process that never waits for any.
_ORPHAN = "sh -c 'sleep 0.1 & echo left'; exec sleep 1000"


def test_x14_without_init_orphans_stay_as_zombies(host):
    spec = host.spec("sh", "-c", _ORPHAN)
    task = host.start(spec)
    host.until(lambda: _zombies(task) == 1)


def test_x14_init_reaps_orphans(host):
    spec = host.spec("sh", "-c", f"({_ORPHAN}) & echo orphan; wait", init=True)
    task = host.start(spec)
    host.until(lambda: host.runtime.exec(spec.id, ProcessSpec(("sh", "-c", "! pidof sleep | grep -q ' '"))) == 0)
    host.until(lambda: _zombies(task) == 0)
    assert host.runtime.state(spec.id).running


def test_x16_stop_timeout_zero_kills_at_once(host):
    spec = host.spec("sh", "-c", "trap 'exit 9' TERM; while true; do sleep 0.01; done")
    host.start(spec)
    assert host.runtime.stop(spec.id, signal.SIGTERM, 0).exit_code == 137


def test_x16_stop_without_limit_waits_for_the_handler(host):
    spec = host.spec("sh", "-c", "trap 'exit 9' TERM; echo ready; while true; do sleep 0.01; done")
    host.start(spec)
    host.until(lambda: b"ready" in host.log(spec).read_bytes())
    assert host.runtime.stop(spec.id, signal.SIGTERM, None).exit_code == 9


def test_x17_a_paused_container_stops(host):
    spec = host.spec("sh", "-c", "trap 'exit 9' TERM; echo ready; while true; do sleep 0.01; done")
    host.start(spec)
    host.until(lambda: b"ready" in host.log(spec).read_bytes())
    runc_root = next(Path("/run/reconciler").glob(f"test-{host.parent.rpartition('-')[2]}/runc"))
    subprocess.run(["runc", "--root", runc_root, "pause", spec.id], check=True)
    assert host.runtime.state(spec.id).status == "paused"
    assert host.runtime.stop(spec.id, signal.SIGTERM, 10).exit_code == 9


def test_x17_a_paused_container_dies_of_kill(host):
    spec = host.spec("sleep", "1000")
    host.start(spec)
    runc_root = next(Path("/run/reconciler").glob(f"test-{host.parent.rpartition('-')[2]}/runc"))
    subprocess.run(["runc", "--root", runc_root, "pause", spec.id], check=True)
    assert host.runtime.kill(spec.id)
    assert host.runtime.wait(spec.id, 10).exit_code == 137


def test_x22_container_and_conmon_outlive_their_creator(host, tmp_path):
    spec = host.spec("sh", "-c", "trap 'exit 5' TERM; echo ready; while true; do sleep 0.01; done")
    bundle, exits = tmp_path / spec.id, tmp_path / "exits"
    exits.mkdir()
    run_dir = f"/run/reconciler/test-{host.parent.rpartition('-')[2]}"
    program = f"""
        import os, signal
        from pathlib import Path, PosixPath
        from reconciler.runtime.runtime import Runtime
        from reconciler.runtime.spec import *
        runtime = Runtime(Path({run_dir!r}))
        runtime.create(Path({str(bundle)!r}), {spec!r}, Path({str(host.log(spec))!r}), Path({str(exits)!r}))
        runtime.start({spec.id!r})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    creator = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE)
    assert creator.returncode == -signal.SIGKILL, creator.stderr
    host.until(lambda: b"ready" in host.log(spec).read_bytes())
    assert host.runtime.state(spec.id).running
    assert host.runtime.state(spec.id).monitored
    assert host.runtime.stop(spec.id).exit_code == 5


def test_x23_without_conmon_it_is_unmonitored_and_its_code_unknown(host):
    spec = host.spec("sleep", "1000")
    task = host.start(spec)
    task.monitor.signal(signal.SIGKILL)
    task.monitor.wait(10)
    state = host.runtime.state(spec.id)
    assert (state.status, state.monitored) == ("running", False)
    state = host.runtime.stop(spec.id, signal.SIGTERM, 0.05)
    assert (state.status, state.exit_code) == ("exited", None)


def test_x25_a_task_of_an_earlier_boot_is_ended_and_never_signalled(host):
    spec = host.spec("sleep", "1000")
    task = host.start(spec)
    record = host.runtime._tasks / spec.id / "task.json"
    text = record.read_text()
    record.write_text(text.replace(task.init.boot_id, "another-boot"))
    assert host.runtime.state(spec.id).status == "exited"
    assert host.runtime.kill(spec.id) is False
    assert task.init.alive()
    record.write_text(text)


def test_x25_a_recycled_pid_is_never_signalled():
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        now = ProcessId.of(bystander.pid)
        earlier = ProcessId(now.pid, now.start_time - 1, now.boot_id)
        assert earlier.signal(signal.SIGKILL) is False
        assert bystander.poll() is None
        assert earlier.wait(0) is True
    finally:
        bystander.kill()
        bystander.wait()


def test_x29_missing_working_directory_is_made(host):
    spec = host.spec("sh", "-c", "pwd; id -u", cwd="/srv/app")
    host.start(spec)
    host.runtime.wait(spec.id, 10)
    lines = [line.split(" ", 3)[3] for line in host.log(spec).read_text().splitlines()]
    assert lines == ["/srv/app", "0"]


def test_x32_user_and_groups_reach_the_process(host):
    spec = host.spec("sh", "-c", "id; echo $HOME", user="app")
    etc = spec.rootfs / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("app:x:1000:1001::/home/app:/bin/sh\n")
    (etc / "group").write_text("staff:x:50:app\n")
    host.start(spec)
    host.runtime.wait(spec.id, 10)
    log = host.log(spec).read_text()
    assert "uid=1000(app) gid=1001 groups=" in log
    assert "50(staff)" in log
    assert "/home/app" in log


def test_x40_environment_is_byte_exact(host):
    value = "a\nb=c ü "
    spec = host.spec(
        "sh", "-c", 'test "$A" = "$B" && test -z "$C" && test "${C+set}" = set', env=(f"A={value}", f"B={value}", "C=")
    )
    host.start(spec)
    assert host.runtime.wait(spec.id, 10).exit_code == 0


def test_x50_exec(host):
    spec = host.spec("sleep", "1000")
    host.start(spec)
    run = host.runtime.exec
    assert run(spec.id, ProcessSpec(("sh", "-c", "exit 6"))) == 6
    reader, writer = os.pipe()
    assert run(spec.id, ProcessSpec(("cat", "/proc/1/comm")), stdout=writer) == 0
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        assert output.read() == b"sleep\n"
    with pytest.raises(RuntimeFailure) as caught:
        run(spec.id, ProcessSpec(("nginx",)))
    assert caught.value.code == 127
    host.runtime.stop(spec.id, timeout=0)
    with pytest.raises(RuntimeFailure) as caught:
        run(spec.id, ProcessSpec(("true",)))
    assert caught.value.code == 126


def test_x52_a_second_try_works_after_a_failed_one(host):
    spec = host.spec("true", mounts=(MountSpec("none", "/data", kind="nosuchfs"),))
    with pytest.raises(RuntimeFailure):
        host.create(spec)
    from dataclasses import replace

    host.start(replace(spec, mounts=()))
    assert host.runtime.wait(spec.id, 10).exit_code == 0


def test_an_ended_task_is_replaced_by_a_new_one(host):
    spec = host.spec("sh", "-c", "exit 3")
    host.start(spec)
    host.runtime.wait(spec.id, 10)
    host.create(spec)
    assert host.runtime.state(spec.id).status == "created"
    host.runtime.start(spec.id)
    assert host.runtime.wait(spec.id, 10).exit_code == 3


def test_start_of_nothing(host):
    with pytest.raises(NotFoundError):
        host.runtime.start("nothing")


def test_x26_a_hanging_runtime_has_a_deadline_and_leaves_nothing(host, tmp_path):
    hanging = tmp_path / "runc"
    hanging.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    hanging.chmod(0o755)
    runtime = Runtime(tmp_path / "run", runc=str(hanging), deadline=0.3)
    spec = host.spec("true")
    with pytest.raises(RuntimeFailure, match=r"0\.3 s"):
        runtime.create(tmp_path / spec.id, spec, host.log(spec), tmp_path / "none")
    host.until(lambda: ProcessId.of(int((tmp_path / "pid").read_text())) is None)
    assert runtime.ids() == ()


@pytest.mark.parametrize("program", ["runc", "conmon"])
def test_x26_a_missing_program_is_named_with_its_package(host, tmp_path, program):
    runtime = Runtime(tmp_path / "run", **{program: "no-such-program"})
    spec = host.spec("true")
    for act in (runtime.check, lambda: runtime.create(tmp_path / spec.id, spec, host.log(spec), tmp_path / "none")):
        with pytest.raises(HostError, match="no-such-program") as caught:
            act()
        assert program in caught.value.hint
    assert runtime.ids() == ()


def test_the_programs_of_this_host_will_do(host):
    host.runtime.check()


def test_secrets_in_the_environment_are_for_root_alone(host):
    spec = host.spec("true", env=("TOKEN=s3cret",))
    host.create(spec)
    for path in (host.base / spec.id).rglob("*"):
        if path.is_file() and not path.is_relative_to(spec.rootfs):
            assert path.stat().st_mode & 0o077 == 0 or b"s3cret" not in path.read_bytes(), path


@pytest.mark.parametrize("record", [None, "", "{}", "[]", '{"init": {}, "monitor": {}}'])
def test_a_half_made_task_is_found_and_deleted(host, record):
    spec = host.spec("sleep", "1000")
    task = host.create(spec)
    file = host.runtime._tasks / spec.id / "task.json"
    file.unlink()
    if record is not None:
        file.write_text(record)
    assert host.runtime.state(spec.id).status == "absent"
    assert host.runtime.ids() == (spec.id,)
    host.runtime.delete(spec.id)
    assert host.runtime.ids() == ()
    assert task.monitor.wait(10)


def test_verify_refuses_as_create_does_and_starts_nothing(host):
    spec = host.spec("nginx")
    with pytest.raises(RuntimeFailure) as caught:
        host.runtime.verify(host.base / spec.id, spec)
    assert caught.value.code == 127
    assert host.runtime.ids() == ()
