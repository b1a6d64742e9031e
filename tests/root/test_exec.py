"""Further processes in a running container."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from runtime import Container, NotRunning, Paused, SetupFailed, Stdio
from runtime.spec.model import Capabilities, Rlimit, User
from tests.containers import Box, Traces

pytestmark = [pytest.mark.vm, pytest.mark.needs_root, pytest.mark.needs_busybox]

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


@pytest.fixture
def running(box: Box) -> Container:
    return box.start()


def test_it_is_in_all_namespaces_and_cgroups_of_the_container(box: Box, running: Container) -> None:
    script = f"for n in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$n; done"
    inside = box.exec(running, f"{script}; cat /proc/self/cgroup").out.splitlines()
    init = Path(f"/proc/{running.state.init_pid}")
    expected = [os.readlink(init / "ns" / name) for name in NAMESPACES]
    assert inside[: len(NAMESPACES)] == expected
    # In a cgroup namespace of its own the container's cgroup is the root.
    assert all(line.endswith(":/") for line in inside[len(NAMESPACES) :] if "unified" not in line)


def test_it_sees_the_root_of_the_container(box: Box, running: Container) -> None:
    (box.bundle.rootfs / "etc/marker").write_text("inside")
    assert box.exec(running, "cat /etc/marker; cd ..; pwd").out == "inside/\n"


def test_its_exit_status_is_returned(box: Box, running: Container) -> None:
    assert box.exec(running, "exit 3").status == 3
    assert box.exec(running, "kill -TERM $$").status == 128 + signal.SIGTERM


def test_it_is_what_its_process_says(box: Box, running: Container) -> None:
    outcome = box.exec(
        running,
        "id -u; pwd; echo $X; ulimit -n; grep CapEff /proc/self/status; umask",
        user=User(uid=1000, gid=1000, umask=0o77),
        cwd="/tmp",
        env=("PATH=/bin", "X=y"),
        rlimits=(Rlimit("RLIMIT_NOFILE", 9, 9),),
        capabilities=Capabilities(),
    )
    assert outcome.out.splitlines() == ["1000", "/tmp", "y", "9", f"CapEff:\t{'0' * 16}", "0077"]


def test_no_descriptor_of_ours_is_left_in_it(box: Box, running: Container) -> None:
    assert box.exec(running, "ls /proc/$$/fd; true").out.split() == ["0", "1", "2"]


def test_detached_it_outlives_the_call(box: Box, running: Container) -> None:
    pid_file = box.bundle.path / "pid"
    process = running.spec.process._replace(args=("sleep", "inf"))
    assert running.exec(process, detach=True, pid_file=pid_file) == 0
    pid = int(pid_file.read_text())
    assert pid in running.processes()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_it_ends_with_the_container(box: Box, running: Container) -> None:
    process = running.spec.process._replace(args=("sleep", "inf"))
    running.exec(process, detach=True)
    running.delete(force=True)
    assert not any(_command(pid) == "sleep" for pid in _children())


def _children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]


def _command(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return (
        ""
        if stat.rpartition(")")[2].split()[0] == "Z"
        else stat.partition("(")[2].partition(")")[0]
    )


def test_signals_are_passed_on(box: Box, running: Container) -> None:
    out, main = box.bundle.path / "exec-out", threading.get_ident()

    def send_when_ready() -> None:
        while not (out.exists() and "ready" in out.read_text()):
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGTERM)  # other threads, pytest-xdist's, take it too

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    thread = threading.Thread(target=send_when_ready)
    thread.start()
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    assert box.exec(running, script).status == 9
    thread.join()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"args": ("nope",)}, r"exec nope: executable file not found in \$PATH"),
        ({"args": ("/etc/passwd",)}, "exec /etc/passwd: permission denied"),
        ({"cwd": "/none"}, "changing directory: /none: no such file or directory"),
        ({"cwd": "/proc/self/fd/7"}, "/proc/self/fd/7: "),
        ({"cwd": "/proc/1/cwd"}, "too many levels of symbolic links"),
    ],
)
def test_one_that_cannot_start_says_why(
    box: Box, running: Container, changes: dict[str, object], why: str
) -> None:
    before = Traces.now(box.root)
    with pytest.raises(SetupFailed, match=why):
        running.exec(running.spec.process._replace(**changes))  # type: ignore[arg-type]
    assert Traces.now(box.root) == before


def test_a_program_that_cannot_be_executed_is_an_error(box: Box, running: Container) -> None:
    path = box.bundle.rootfs / "bin/broken"
    path.write_text("\x7fELF")
    path.chmod(0o755)
    with pytest.raises(SetupFailed, match="exec /bin/broken: exec format error"):
        running.exec(running.spec.process._replace(args=("broken",)))


def test_a_paused_container_takes_none(box: Box, running: Container) -> None:
    running.pause()
    with pytest.raises(Paused, match="resume"):
        box.exec(running, "true")


def test_a_paused_container_takes_one_that_waits_when_that_is_asked_for(
    box: Box, running: Container
) -> None:
    running.pause()
    thread = threading.Timer(0.2, running.resume)
    thread.start()
    process = running.spec.process._replace(args=("sh", "-c", "exit 5"))
    assert running.exec(process, ignore_paused=True) == 5
    thread.join()


def test_a_stopped_container_takes_none(box: Box, running: Container) -> None:
    running.signal(signal.SIGKILL)
    running.wait()
    with pytest.raises(NotRunning):
        box.exec(running, "true")


def test_a_created_container_takes_one(box: Box) -> None:
    container = box.create()
    assert box.exec(container, "exit 4").status == 4


def test_a_proc_that_the_container_has_faked_is_not_asked(box: Box) -> None:
    """CVE-2019-16884, CVE-2025-52881: what we write to /proc must not land elsewhere."""
    box.update(
        mounts=[each for each in box.bundle.spec["mounts"] if each["destination"] != "/proc"]
    )
    (box.bundle.rootfs / "proc/self").mkdir(parents=True)
    fake = box.bundle.rootfs / "proc/self/oom_score_adj"
    fake.write_text("fake")
    container = box.start(stdio=Stdio())
    process = container.spec.process._replace(args=("true",), oom_score_adj=300)
    assert container.exec(process) == 0
    assert fake.read_text() == "fake"


def test_it_comes_into_the_cgroup_below_that_is_wanted(box: Box, running: Container) -> None:
    directory = running.cgroup.freezer_path / "below"
    directory.mkdir()
    process = running.spec.process._replace(args=("sleep", "inf"))
    pid_file = box.bundle.path / "pid"
    where = {"": "below"} if "" in running.cgroup.paths else {"freezer": "below"}
    running.exec(process, detach=True, pid_file=pid_file, sub_cgroups=where)
    assert (directory / "cgroup.procs").read_text() == pid_file.read_text() + "\n"


def test_who_listens_gets_its_pidfd(box: Box, running: Container) -> None:
    path, pid_file = box.bundle.path / "socket", box.bundle.path / "pid"
    process = running.spec.process._replace(args=("sleep", "inf"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        running.exec(process, detach=True, pid_file=pid_file, pidfd_socket=path)
        connection, _ = listener.accept()
    with connection:
        name, (pidfd,), _, _ = socket.recv_fds(connection, 16, 1)
    assert name == b"pidfd"
    about = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)
    assert f"Pid:\t{pid_file.read_text()}\n" in about


def test_without_a_listener_for_its_pidfd_nothing_is_run(box: Box, running: Container) -> None:
    before = running.processes()
    process = running.spec.process._replace(args=("sleep", "inf"))
    with pytest.raises(SetupFailed, match="connecting to the pidfd socket"):
        running.exec(process, detach=True, pidfd_socket=box.bundle.path / "nobody")
    assert running.processes() == before
