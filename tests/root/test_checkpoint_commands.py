"""`migrator checkpoint` and `migrator restore` as a caller of an OCI runtime uses them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import Container
from tests.migratory import Migratory
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_criu]

PROGRAM = Path(sys.executable).with_name("migrator")
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def command(migratory: Migratory, room: Path) -> Callable[..., Done]:
    """Runs the program in the test's room; it speaks to a file, which containers inherit."""

    def run(*arguments: str) -> Done:
        argv = [str(PROGRAM), "--root", str(migratory.box.root), *arguments]
        with (room / "said").open("w+") as said:
            done = subprocess.run(
                argv, cwd=room, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False
            )
            said.seek(0)
            return Done(argv, done.returncode, "", said.read())

    return run


def bundle_of(migratory: Migratory) -> str:
    return str(migratory.box.bundle.path)


def test_out_and_in_again(migratory: Migratory, command: Callable[..., Done], room: Path) -> None:
    migratory.start()
    container_id = migratory.box.id
    assert migratory.counts()
    done = command("checkpoint", container_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert (room / "checkpoint/inventory.img").exists()
    assert (room / "checkpoint/dump.log").exists()
    last = migratory.count()
    done = command(
        "restore", "--bundle", bundle_of(migratory), "-d", "--pid-file", "pid", container_id
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert migratory.counts()
    assert migratory.count() > last
    container = Container.load(migratory.box.root, container_id)
    assert int((room / "pid").read_text()) == container.state.init_pid


def test_work_path_and_leave_running(
    migratory: Migratory, command: Callable[..., Done], room: Path
) -> None:
    migratory.start()
    done = command(
        "checkpoint", "--image-path", "i", "--work-path", "w", "--leave-running", migratory.box.id
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (room / "w/dump.log").exists()
    assert (room / "w/stats-dump").exists()
    assert not (room / "i/dump.log").exists()
    assert migratory.counts()


def test_in_the_foreground_the_exit_code_is_the_containers(
    migratory: Migratory, command: Callable[..., Done], room: Path
) -> None:
    migratory.start("until [ -e /stop ]; do sleep 0.05; done; exit 42")
    assert command("checkpoint", migratory.box.id).returncode == 0
    (migratory.box.bundle.rootfs / "stop").touch()
    done = command("restore", "-b", bundle_of(migratory), migratory.box.id)
    assert (done.returncode, done.stderr) == (42, "")
    assert not (migratory.box.root / migratory.box.id).exists()


def test_errors_are_one_line_and_name_the_remedy(
    migratory: Migratory, command: Callable[..., Done], room: Path
) -> None:
    migratory.start("sleep 1000 | nc -l -p 5000 & sleep 0.2; sleep 1000 | nc 127.0.0.1 5000")
    # Connected over the loopback that the runtime has brought up.
    container_id, bundle = migratory.box.id, bundle_of(migratory)
    pid = migratory.container.state.init_pid
    assert eventually(lambda: " 01 " in Path(f"/proc/{pid}/net/tcp").read_text())
    for argv, said in (
        (("checkpoint", "nobody"), "container nobody does not exist"),
        (("checkpoint", container_id), "allow it with --tcp-established"),
        (("checkpoint", "--ghost-limit", "much", container_id), "'much' is not a size"),
        (("checkpoint", "--parent-path", "../p", container_id), "--parent-path ../p: "),
        (("restore", "-b", bundle, container_id), "already exists"),
        (("restore", "-b", bundle, "other"), "has no inventory.img"),
        (("restore", "-b", bundle, "--image-path", "none", "other"), "none: No such file"),
        (("restore", "-b", "nowhere", "other"), "nowhere: no such directory"),
        (("restore", "-b", bundle, "--veth", "eth0", "other"), "is not of the form NAME=HOST_END"),
        (("restore", "-b", bundle, "--image-path", "none", "../x"), "invalid container id"),
    ):
        done = command(*argv)
        assert done.returncode == 1, argv
        assert said in done.stderr, argv
        assert done.stderr.count("\n") == 1, done.stderr
    assert Container.load(migratory.box.root, container_id).status() == "running"
    assert [path.name for path in migratory.box.root.iterdir()] == [container_id]


def test_descriptors_json_is_what_other_runtimes_write(
    migratory: Migratory, command: Callable[..., Done], room: Path
) -> None:
    migratory.start()
    assert command("checkpoint", "--image-path", "i", migratory.box.id).returncode == 0
    assert json.loads((room / "i/descriptors.json").read_text()) == ["/dev/null"] * 3


@pytest.mark.vm  # by CRIU alone, where soft-dirty is
def test_a_chain_of_directories(
    migratory: Migratory, command: Callable[..., Done], room: Path
) -> None:
    migratory.start()
    for argv in (
        ("--pre-dump", "--image-path", "pre1"),
        ("--pre-dump", "--image-path", "pre2", "--parent-path", "../pre1"),
        ("--image-path", "last", "--parent-path", "../pre2"),
    ):
        assert migratory.counts()
        done = command("checkpoint", *argv, migratory.box.id)
        assert (done.returncode, done.stderr) == (0, "")
    assert list(migratory.box.root.iterdir()) == []
    last = migratory.count()
    argv = ("restore", "-b", bundle_of(migratory), "--image-path", "last", "-d", migratory.box.id)
    done = command(*argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert migratory.counts()
    assert migratory.count() > last


def test_whose_memory_nobody_has_fetched_runs_on_when_that_is_interrupted(
    migratory: Migratory, room: Path
) -> None:
    migratory.start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = ["--lazy-pages", "--page-server", f"127.0.0.1:{port}", "--image-path", "images"]
    argv = [PROGRAM, "--root", migratory.box.root, "checkpoint", *server, "--status-fd"]
    ready, ready_in = os.pipe()
    with subprocess.Popen(
        [*argv, str(ready_in), migratory.box.id], cwd=room, pass_fds=[ready_in]
    ) as process:
        os.close(ready_in)
        assert os.read(ready, 1) == b"\0"
        os.close(ready)
        assert migratory.stands_still()
        process.terminate()
        assert process.wait(10) == 130
    assert migratory.counts()
    assert not list((room / "images").glob("*.img"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
