"""state.json and its lock: written whole, read back or told what is broken; status is derived."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import state
from runtime.errors import ContainerBusy, CorruptState, InvalidId, NoSuchContainer
from runtime.state import State, Status

STATE = State(
    id="c1",
    oci_version="1.2.0",
    bundle=Path("/b"),
    rootfs=Path("/b/rootfs"),
    spec={"annotations": {"a": "b"}},
    created="2026-01-02T03:04:05.000000006Z",
    init_pid=7,
    init_start_time=8,
    networks=[{"type": "loopback"}],
    routes=[{"gateway": "10.0.0.1"}],
    cgroup_paths={"freezer": "/sys/fs/cgroup/freezer/migrator/c1"},
    namespace_paths={"network": "/proc/7/ns/net"},
    external_descriptors=["/dev/null", "pipe:[1]", "pipe:[2]"],
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "c1"
    path.mkdir()
    return path


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def running(process: "subprocess.Popen[bytes]") -> State:
    found = state.process_stat(process.pid)
    assert found is not None
    return STATE._replace(init_pid=process.pid, init_start_time=found.start_time, cgroup_paths={})


class TestFile:
    def test_what_is_saved_is_loaded(self, directory: Path) -> None:
        STATE.save(directory)
        assert State.load(directory) == STATE

    def test_only_root_may_read_it(self, directory: Path) -> None:
        old = os.umask(0)
        try:
            STATE.save(directory)
        finally:
            os.umask(old)
        assert stat.S_IMODE((directory / "state.json").stat().st_mode) == 0o600

    def test_nothing_else_is_left_beside_it(self, directory: Path) -> None:
        STATE.save(directory)
        STATE._replace(init_pid=9).save(directory)
        assert [path.name for path in directory.iterdir()] == ["state.json"]
        assert State.load(directory).init_pid == 9

    def test_a_failed_write_leaves_the_former_one(self, directory: Path) -> None:
        STATE.save(directory)
        with pytest.raises(TypeError):
            STATE._replace(spec={"x": object()}).save(directory)
        assert State.load(directory) == STATE
        assert [path.name for path in directory.iterdir()] == ["state.json"]

    def test_a_write_without_directory_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            STATE.save(tmp_path / "none")

    @pytest.mark.parametrize("name", ["c1", "none/c1"])
    def test_no_file_is_no_container(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(NoSuchContainer, match="container c1 does not exist below"):
            State.load(tmp_path / name)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "Expecting value"),
            ('{"version": 1, "id": "c1"', "Expecting ',' delimiter"),
            ("[]", "not a JSON object"),
            ("{}", "format version is None, this runtime's is 1"),
            ('{"version": 1}', "field 'id' is missing"),
            (10_000 * "[", "maximum recursion depth exceeded"),
            ("\xff", "'utf-8' codec"),
        ],
    )
    def test_a_broken_file_is_told_with_the_remedy(
        self, directory: Path, text: str, why: str
    ) -> None:
        (directory / "state.json").write_text(text, "latin-1")
        with pytest.raises(CorruptState) as caught:
            State.load(directory)
        told = str(caught.value)
        assert f"cannot be read from {directory}/state.json: {why}" in told
        assert "`migrator delete --force c1`" in told

    @pytest.mark.parametrize(
        ("field", "value", "why"),
        [
            ("version", 2, "format version is 2"),
            ("id", "c2", "it is the state of container 'c2'"),
            ("init_pid", "7", "field 'init_pid' is not of type int"),
            ("init_pid", True, "field 'init_pid' is not of type int"),
            ("bundle", None, "field 'bundle' is not of type str"),
            ("networks", {}, "field 'networks' is not of type list"),
            ("networks", [1], "field 'networks' has an item that is not of type dict"),
            ("cgroup_paths", {"a": 1}, "field 'cgroup_paths' has an item that is not of type str"),
            ("external_descriptors", [None], "field 'external_descriptors' has an item"),
        ],
    )
    def test_a_field_of_another_type_is_told(
        self, directory: Path, field: str, value: Any, why: str
    ) -> None:
        STATE.save(directory)
        path = directory / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
        with pytest.raises(CorruptState) as caught:
            State.load(directory)
        assert why in caught.value.why

    def test_a_reader_never_sees_a_part(self, directory: Path) -> None:
        big = STATE._replace(spec={"x": 200_000 * "y"})
        STATE.save(directory)
        ended = threading.Event()

        def write() -> None:
            for each in 20 * [big, STATE]:
                each.save(directory)
            ended.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not ended.is_set():
            assert State.load(directory) in (big, STATE)
        writer.join()


class TestStatus:
    def test_a_process_makes_it_run(
        self, directory: Path, child: "subprocess.Popen[bytes]"
    ) -> None:
        assert state.derive_status(running(child), directory) == Status.RUNNING

    def test_a_waiting_fifo_makes_it_created(
        self, directory: Path, child: "subprocess.Popen[bytes]"
    ) -> None:
        os.mkfifo(directory / "exec.fifo")
        assert state.derive_status(running(child), directory) == Status.CREATED

    @pytest.mark.parametrize("word", ["FROZEN", "FREEZING"])
    def test_a_frozen_cgroup_makes_it_paused(
        self, directory: Path, child: "subprocess.Popen[bytes]", word: str
    ) -> None:
        (directory / "freezer.state").write_text(f"{word}\n")
        paused = running(child)._replace(cgroup_paths={"freezer": str(directory)})
        assert state.derive_status(paused, directory) == Status.PAUSED

    @pytest.mark.parametrize(("frozen", "status"), [("1", "paused"), ("0", "running")])
    def test_a_frozen_v2_cgroup_makes_it_paused(
        self, directory: Path, child: "subprocess.Popen[bytes]", frozen: str, status: str
    ) -> None:
        (directory / "cgroup.events").write_text(f"populated 1\nfrozen {frozen}\n")
        paused = running(child)._replace(cgroup_paths={"": str(directory)})
        assert state.derive_status(paused, directory) == status

    def test_a_zombie_is_stopped(self, directory: Path, child: "subprocess.Popen[bytes]") -> None:
        was = running(child)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert state.derive_status(was, directory) == Status.STOPPED

    def test_another_process_of_the_same_pid_is_not_init(
        self, directory: Path, child: "subprocess.Popen[bytes]"
    ) -> None:
        was = running(child)
        other = was._replace(init_start_time=was.init_start_time - 1)
        assert state.derive_status(other, directory) == Status.STOPPED

    def test_without_init_it_is_created_as_long_as_somebody_creates_it(
        self, directory: Path
    ) -> None:
        early = STATE._replace(init_pid=0)
        with state.lock(directory):
            assert state.derive_status(early, directory) == Status.CREATING
        assert state.derive_status(early, directory) == Status.STOPPED

    @pytest.mark.parametrize(("status", "pid"), [(Status.RUNNING, 7), (Status.STOPPED, 0)])
    def test_the_oci_state_has_a_pid_while_init_lives(self, status: Status, pid: int) -> None:
        assert STATE.oci(status) == {
            "ociVersion": "1.2.0",
            "id": "c1",
            "status": str(status),
            "pid": pid,
            "bundle": "/b",
            "annotations": {"a": "b"},
        }


def test_a_command_name_with_parentheses_does_not_confuse() -> None:
    script = (
        "import ctypes, sys; ctypes.CDLL(None).prctl(15, b') R (x) 1 2'); "
        "print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert b") R (x)" in Path(f"/proc/{process.pid}/stat").read_bytes()
        found = state.process_stat(process.pid)
        mine = state.process_stat(os.getpid())
        assert found is not None
        assert mine is not None
        assert found.state in "RSD"
        assert found.parent == os.getpid()
        assert found.start_time >= mine.start_time


def test_no_process_has_no_stat() -> None:
    assert state.process_stat(2**22 + 1) is None


def test_now_is_rfc3339_in_utc() -> None:
    before = time.time_ns()
    text = state.now()
    stamp, nanoseconds = text.rstrip("Z").split(".")
    assert len(nanoseconds) == 9
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before // 10**9)) <= stamp


@pytest.mark.parametrize("name", ["a", "A.b_c+d-1", "...", 255 * "x", "1"])
def test_a_good_id_is_returned(name: str) -> None:
    assert state.check_id(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\n", "é", "a\0", 256 * "x", "٣"])
def test_a_bad_id_is_refused(name: str) -> None:
    with pytest.raises(InvalidId):
        state.check_id(name)


class TestLock:
    def test_it_keeps_another_out_and_names_the_holder(self, directory: Path) -> None:
        with state.lock(directory):
            assert state.lock_holder(directory) == f"process {os.getpid()}"
            with (
                pytest.raises(ContainerBusy, match=f"in use by process {os.getpid()}"),
                state.lock(directory, timeout_s=0.05),
            ):
                pass
        assert state.lock_holder(directory) is None

    def test_it_waits_for_the_holder(self, directory: Path) -> None:
        entered = threading.Event()

        def hold() -> None:
            with state.lock(directory):
                entered.set()
                time.sleep(0.1)

        holder = threading.Thread(target=hold)
        holder.start()
        entered.wait()
        with state.lock(directory, timeout_s=5):
            pass
        holder.join()

    def test_it_ends_with_the_process(self, directory: Path) -> None:
        script = (
            "import sys, pathlib; from runtime import state; "
            "held = state.lock(pathlib.Path(sys.argv[1])); held.__enter__(); "
            "print(flush=True); sys.stdin.read()"
        )
        argv = [sys.executable, "-c", script, str(directory)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert state.lock_holder(directory) == f"process {process.pid}"
            process.kill()
        assert state.lock_holder(directory) is None

    def test_without_directory_there_is_no_container(self, tmp_path: Path) -> None:
        with pytest.raises(NoSuchContainer), state.lock(tmp_path / "none"):
            pass

    def test_the_lock_of_a_removed_directory_is_not_taken(self, directory: Path) -> None:
        told: list[BaseException] = []

        def wait() -> None:
            try:
                with state.lock(directory, timeout_s=5):
                    pass
            except NoSuchContainer as exc:
                told.append(exc)

        with state.lock(directory):
            waiter = threading.Thread(target=wait)
            waiter.start()
            time.sleep(0.05)
            (directory / "lock").unlink()
        waiter.join()
        assert len(told) == 1

    def test_no_directory_has_no_holder(self, tmp_path: Path) -> None:
        assert state.lock_holder(tmp_path / "none") is None
