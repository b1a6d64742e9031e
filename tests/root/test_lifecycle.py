"""From create to delete: statuses, exit codes, wrong verbs, and what a failure leaves behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime import (
    BundleError,
    Container,
    ContainerError,
    ContainerExists,
    InvalidId,
    InvalidSpec,
    NoSuchContainer,
    NotPaused,
    NotRunning,
    Paused,
    SetupFailed,
    Status,
    Stdio,
    StillRunning,
    WrongStatus,
)
from tests import leftovers
from tests.containers import Box, Traces, without_namespace
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


@pytest.mark.vm
@pytest.mark.usefixtures("traceless")
def test_a_container_goes_from_created_to_running_to_stopped(box: Box) -> None:
    container = box.create()
    assert container.status() is Status.CREATED
    assert container.processes() == [container.state.init_pid]
    container.start()
    assert container.status() is Status.RUNNING
    container.signal(signal.SIGKILL)
    assert container.wait() == 137
    assert container.status() is Status.STOPPED
    assert container.oci_state()["pid"] == 0
    container.delete()
    with pytest.raises(NoSuchContainer):
        Container.load(box.root, box.id)


def test_the_oci_state_has_what_the_specification_wants(box: Box) -> None:
    box.update(annotations={"org.example": "x"})
    container = box.create()
    assert container.oci_state() == {
        "ociVersion": "1.2.0",
        "id": box.id,
        "status": "created",
        "pid": container.state.init_pid,
        "bundle": str(box.bundle.path),
        "annotations": {"org.example": "x"},
    }
    assert [each.id for each in Container.list_all(box.root)] == [box.id]


def test_nobody_else_can_hold_up_its_start(box: Box) -> None:
    for path in (box.root.parent, box.root):
        path.chmod(0o755)
    fifo = box.create().dir / "exec.fifo"
    script = "import os, sys; os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)"
    argv = ["/usr/bin/python3", "-c", script, str(fifo)]
    tried = subprocess.run(argv, user=65534, group=65534, stderr=subprocess.PIPE, text=True)
    assert "Permission denied" in tried.stderr


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 0)])
@pytest.mark.usefixtures("traceless")
def test_run_returns_the_exit_status_of_the_program(box: Box, script: str, status: int) -> None:
    # The first process of a pid namespace does not get its own SIGKILL (pid_namespaces(7)).
    assert box.shell(script).status == status


def test_run_returns_128_and_the_signal_that_ended_the_program(box: Box) -> None:
    box.update(linux={"namespaces": without_namespace(box.bundle.spec, "pid")})
    assert box.shell("kill -TERM $$").status == 128 + signal.SIGTERM


def test_run_can_keep_the_container(box: Box) -> None:
    box.program("true")
    assert box.run(keep=True).status == 0
    container = Container.load(box.root, box.id)
    assert container.status() is Status.STOPPED
    container.delete()


@pytest.mark.vm
def test_a_container_outlives_the_process_that_made_it(box: Box) -> None:
    script = (
        "import sys; from pathlib import Path; from runtime import Container; "
        "Container.run(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), detach=True)"
    )
    argv = [sys.executable, "-c", script, str(box.root), box.id, str(box.bundle.path)]
    subprocess.run(argv, check=True)
    container = Container.load(box.root, box.id)
    assert container.status() is Status.RUNNING
    container.signal(signal.SIGKILL)
    assert container.wait() is None  # not our child
    container.delete()


def test_run_passes_signals_on(box: Box) -> None:
    box.program("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")
    out, main = box.bundle.path / "out", threading.get_ident()

    def send_when_ready() -> None:
        eventually(lambda: out.exists() and "ready" in out.read_text())
        signal.pthread_kill(main, signal.SIGTERM)  # other threads, pytest-xdist's, take it too

    thread = threading.Thread(target=send_when_ready)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    thread.start()
    assert box.run().status == 7
    thread.join()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def test_run_notices_the_end_whichever_thread_gets_the_signal(box: Box) -> None:
    box.program("true")
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert [box.run().status for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("wrong", ["", ".", "..", "a/b", "a b", "ü"])
def test_an_id_that_is_none_is_refused(box: Box, wrong: str) -> None:
    with pytest.raises(InvalidId):
        Container.create(box.root, wrong, box.bundle.path)
    assert os.listdir(box.root) == []


def test_an_id_is_taken_once(box: Box) -> None:
    box.create()
    with pytest.raises(ContainerExists, match=box.id):
        box.create()
    assert Container.load(box.root, box.id).status() is Status.CREATED


def test_of_concurrent_creates_of_one_id_one_succeeds(box: Box) -> None:
    results: list[object] = []

    def attempt() -> None:
        try:
            results.append(box.create())
        except ContainerError as exc:
            results.append(exc)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, Container) for result in results) == 1
    assert sum(isinstance(result, ContainerExists) for result in results) == 7
    assert Container.load(box.root, box.id).status() is Status.CREATED


def test_a_second_start_is_refused(box: Box) -> None:
    container = box.start()
    with pytest.raises(WrongStatus, match="is running, not created"):
        container.start()


def test_start_says_when_the_process_has_died_meanwhile(box: Box) -> None:
    container = box.create()
    os.kill(container.state.init_pid, signal.SIGKILL)
    os.waitpid(container.state.init_pid, 0)
    with pytest.raises(WrongStatus, match="is stopped, not created"):
        container.start()
    container.delete()


def test_a_container_in_use_is_not_deleted_without_force(box: Box) -> None:
    container = box.start()
    with pytest.raises(StillRunning, match="delete --force"):
        container.delete()
    assert container.status() is Status.RUNNING
    container.delete(force=True)
    container.delete(force=True)
    with pytest.raises(NoSuchContainer):
        container.delete()


@pytest.mark.usefixtures("traceless")
def test_a_created_container_is_deleted_with_its_waiting_process(box: Box) -> None:
    container = box.create()
    container.delete()


@pytest.mark.vm
def test_pause_freezes_and_resume_thaws(box: Box) -> None:
    box.program("sh", "-c", "while :; do echo x; done")
    out = box.bundle.path / "ticks"
    container = box.start(stdio=Stdio(None, out, None))
    container.pause()
    assert container.status() is Status.PAUSED
    size = out.stat().st_size
    time.sleep(0.05)
    assert out.stat().st_size == size
    with pytest.raises(Paused):
        container.pause()
    container.resume()
    assert container.status() is Status.RUNNING
    with pytest.raises(NotPaused):
        container.resume()
    assert eventually(lambda: out.stat().st_size > size)


@pytest.mark.vm
@pytest.mark.usefixtures("traceless")
def test_a_paused_container_is_deleted_by_force(box: Box) -> None:
    container = box.start()
    container.pause()
    with pytest.raises(StillRunning):
        container.delete()
    container.delete(force=True)


@pytest.mark.parametrize("own_pids", [True, False])
def test_a_paused_container_is_killed(box: Box, own_pids: bool) -> None:
    if not own_pids:
        box.update(linux={"namespaces": without_namespace(box.bundle.spec, "pid")})
    box.program("sh", "-c", "sleep inf & wait; echo went on")
    container = box.start(stdio=Stdio(None, out := box.bundle.path / "out", None))
    container.pause()
    container.signal(signal.SIGTERM)
    assert container.status() is Status.PAUSED
    container.signal(signal.SIGKILL)
    assert container.wait() == 137
    assert out.read_text() == ""


def test_verbs_of_a_stopped_container_say_so(box: Box) -> None:
    container = box.start()
    container.signal(signal.SIGKILL)
    container.wait()
    with pytest.raises(NotRunning, match="is stopped, not running"):
        container.signal(signal.SIGTERM)
    with pytest.raises(NotRunning):
        container.pause()
    with pytest.raises(NotPaused):
        container.resume()
    with pytest.raises(NotRunning):
        box.exec(container, "true")


@pytest.mark.vm
def test_a_kill_without_a_pid_namespace_ends_every_process(box: Box) -> None:
    box.update(linux={"namespaces": without_namespace(box.bundle.spec, "pid")})
    box.program("sh", "-c", "sleep inf & sleep inf & wait")
    container = box.start()
    assert eventually(lambda: len(container.processes()) == 3)
    container.signal(signal.SIGKILL)
    assert eventually(lambda: not container.cgroup.processes() or container.wait() == 137)
    assert eventually(lambda: container.processes() == [])
    container.delete()


def test_a_signal_for_everyone_reaches_everyone(box: Box) -> None:
    box.program("sh", "-c", "trap : USR1; sleep inf & wait; sleep inf")
    container = box.start()
    # Only from its exec on it has no trap any more.
    assert eventually(lambda: "sleep" in map(command_of, container.processes()))
    before = set(container.processes())
    container.signal(signal.SIGUSR1, everyone=True)
    assert eventually(lambda: len(set(container.processes()) & before) == 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_created_container_is_ended_by_a_signal(box: Box, number: int) -> None:
    container = box.create()
    container.signal(number)
    container.wait()
    assert container.status() is Status.STOPPED
    container.delete()


def test_pid_files_hold_the_pid_of_init(box: Box) -> None:
    container = box.create(pid_file=box.bundle.path / "pid")
    assert (box.bundle.path / "pid").read_text() == str(container.state.init_pid)


@pytest.mark.parametrize(
    ("sections", "error", "why"),
    [
        (
            {"process": {"args": ["nope"]}},
            SetupFailed,
            r"nope: executable file not found in \$PATH",
        ),
        ({"process": {"args": ["/bin/nope"]}}, SetupFailed, "/bin/nope: no such file or directory"),
        ({"process": {"args": ["/etc/passwd"]}}, SetupFailed, "/etc/passwd: permission denied"),
        ({"process": {"cwd": "/etc/passwd"}}, SetupFailed, "passwd: not a directory"),
        ({"root": {"path": "none"}}, BundleError, "none"),
        (
            {"mounts": [{"destination": "/x", "type": "bind", "source": "/nope"}]},
            SetupFailed,
            "mounting: /nope .bind. on /x: no such file",
        ),
        (
            {"mounts": [{"destination": "/x", "type": "tmpfs", "options": ["size=much"]}]},
            SetupFailed,
            "mounting: tmpfs on /x: tmpfs: Bad value for 'size'",
        ),
        (
            {"mounts": [{"destination": "/x", "type": "nofs"}]},
            SetupFailed,
            "mounting: nofs on /x: no such device",
        ),
        (
            {
                "linux": {
                    "namespaces": [
                        {"type": "mount"},
                        {"type": "uts"},
                        {"type": "network", "path": "/none"},
                    ]
                }
            },
            SetupFailed,
            "joining network namespace: /none: no such file",
        ),
        (
            {"linux": {"sysctl": {"net.nothing.here": "1"}}},
            SetupFailed,
            "setting kernel parameters: /proc/sys/net/nothing/here: no such file",
        ),
        (
            {"hooks": {"createRuntime": [{"path": "/bin/false"}]}},
            ContainerError,
            "error running createRuntime hook #0: /bin/false: exit status 1",
        ),
        (
            {"hooks": {"createContainer": [{"path": "/bin/false"}]}},
            ContainerError,
            "error running createContainer hook #0: /bin/false: exit status 1",
        ),
        ({"linux": {"seccomp": {"defaultAction": "ALLOW"}}}, InvalidSpec, "seccomp.defaultAction"),
    ],
)
@pytest.mark.usefixtures("traceless")
def test_a_create_that_fails_says_why_and_leaves_nothing(
    box: Box, sections: dict[str, object], error: type[Exception], why: str
) -> None:
    box.update(**sections)
    before = Traces.now(box.root)
    with pytest.raises(error, match=why) as raised:
        box.create()
    assert "\n" not in str(raised.value)
    assert Traces.now(box.root) == before


def test_a_pid_file_that_cannot_be_written_undoes_the_create(box: Box) -> None:
    before = Traces.now(box.root)
    with pytest.raises(SetupFailed, match=r"writing the pid file /none/pid: .*no such file"):
        box.create(pid_file=Path("/none/pid"))
    assert Traces.now(box.root) == before


def test_a_program_that_cannot_be_executed_fails_start_and_leaves_it_stopped(box: Box) -> None:
    path = box.bundle.rootfs / "bin/broken"
    path.write_text("\x7fELF")
    path.chmod(0o755)
    box.program("broken")
    container = box.create()
    with pytest.raises(SetupFailed, match="exec /bin/broken: exec format error"):
        container.start()
    assert container.status() is Status.STOPPED
    container.delete()


def test_run_of_what_cannot_be_executed_leaves_nothing(box: Box) -> None:
    path = box.bundle.rootfs / "bin/broken"
    path.write_text("#!/none\n")
    path.chmod(0o755)
    box.program("broken")
    before = Traces.now(box.root)
    with pytest.raises(SetupFailed, match="no such file or directory"):
        box.run()
    assert Traces.now(box.root).processes == before.processes
    assert os.listdir(box.root) == []


def killed_in_a_hook(box: Box) -> Container:
    """One whose maker was killed while a hook held it up, with everything already made."""
    box.update(hooks={"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "3600"]}]})
    script = (
        "import sys; from pathlib import Path; from runtime import Container; "
        "Container.create(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))"
    )
    argv = [sys.executable, "-c", script, str(box.root), box.id, str(box.bundle.path)]
    runtime = subprocess.Popen(argv, start_new_session=True)

    def in_hook() -> bool:
        children = Path(f"/proc/{runtime.pid}/task/{runtime.pid}/children").read_text().split()
        names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in children]
        return "sleep" in names

    assert eventually(in_hook)
    container = Container.load(box.root, box.id)
    pids = Path(f"/proc/{runtime.pid}/task/{runtime.pid}/children").read_text().split()
    runtime.kill()
    runtime.wait()
    sleeper = next(pid for pid in pids if int(pid) != container.state.init_pid)
    os.kill(int(sleeper), signal.SIGKILL)
    assert eventually(lambda: not Path(f"/proc/{container.state.init_pid}").exists())
    return container


@pytest.mark.vm
def test_what_a_killed_create_has_left_can_be_deleted(box: Box) -> None:
    before = Traces.now(box.root)
    container = killed_in_a_hook(box)
    assert container.status() is Status.STOPPED
    container.delete()
    assert Traces.now(box.root) == before


def test_what_a_killed_create_has_mounted_on_the_host_can_be_deleted(box: Box) -> None:
    spec = box.bundle.spec
    spec["linux"] |= {"maskedPaths": [], "readonlyPaths": []}
    spec["linux"]["namespaces"] = without_namespace(spec, "mount")
    box.bundle.write(spec)
    before = Traces.now(box.root)
    container = killed_in_a_hook(box)
    assert Traces.now(box.root).mounts != before.mounts
    container.delete()
    assert Traces.now(box.root) == before


@pytest.mark.usefixtures("traceless")
def test_a_create_killed_at_any_moment_leaves_nothing_that_delete_does_not_find(box: Box) -> None:
    script = (
        "import sys; from pathlib import Path; import runtime.assemble; import runtime.create; "
        "from runtime import Container; print(flush=True); "
        "Container.create(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])).start()"
    )
    argv = [sys.executable, "-c", script, str(box.root), box.id, str(box.bundle.path)]
    before = leftovers.cgroups(leftovers.mine)  # a lab's, of another test
    for step in range(16):
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as runtime:
            assert runtime.stdout is not None
            runtime.stdout.readline()
            time.sleep(step * 0.004)
            runtime.kill()
        Container.remove(box.root, box.id, force=True)
        assert os.listdir(box.root) == []
        assert leftovers.cgroups(leftovers.mine) == before


@pytest.mark.usefixtures("traceless")
def test_twenty_containers_leave_nothing(box: Box) -> None:
    box.program("true")
    for _ in range(20):
        assert box.run().status == 0


# Says whose child an orphan is, and whether it is gone once it has ended.
ORPHANING = """
mount -t proc none /proc
(while [ ! -e /seen ]; do sleep 0.05; done & echo $! > /orphan)
read orphan name state parent rest < /proc/$(cat /orphan)/stat
echo $parent
touch /seen
n=0
while [ -e /proc/$orphan ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n+1)); done
[ -e /proc/$orphan ] && echo left || echo gone
"""


@pytest.mark.parametrize("wanted", [True, False])
def test_run_is_the_parent_of_orphans_and_reaps_them_if_that_is_wanted(
    box: Box, wanted: bool
) -> None:
    box.update(linux={"namespaces": without_namespace(box.bundle.spec, "pid")})
    box.program("sh", "-c", ORPHANING)
    program = (
        "import os, sys; from pathlib import Path; from runtime import Container, Stdio; "
        "print(os.getpid(), flush=True); root, bundle = map(Path, sys.argv[1:3]); "
        "Container.run(root, sys.argv[3], bundle, stdio=Stdio(None, 1, 2), subreaper=True)"
    ).replace("=True", f"={wanted}")
    argv = [sys.executable, "-c", program, box.root, box.bundle.path, box.id]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    ours, parent, end = done.stdout.split()
    assert (parent == ours) is wanted
    assert end == "gone" or not wanted


INTERRUPTED = """
import signal, sys
from pathlib import Path
from runtime import Container, Status
container = Container.load(Path(sys.argv[1]), sys.argv[2])
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 1)
try:
    container.start()
except KeyboardInterrupt:
    print(container.status())
"""


def test_a_start_that_is_interrupted_leaves_it_stopped(box: Box) -> None:
    """It would pass for created while its program runs, and a second start would wait for ever."""
    box.update(hooks={"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "30"]}]})
    box.create()
    argv = [sys.executable, "-c", INTERRUPTED, str(box.root), box.id]
    said = subprocess.run(argv, check=True, timeout=20, capture_output=True, text=True).stdout
    assert said == "stopped\n"
