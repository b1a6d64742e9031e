"""A service manager starts a container: it waits until that is ready, and gives it sockets."""

import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime import Container, SetupFailed
from runtime.readiness import Readiness
from tests.clients.apart import MIGRATOR
from tests.containers import Box
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

WITHIN_S = 10


@pytest.fixture
def manager(room: Path) -> Iterator[socket.socket]:
    """Who listens at NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(room / "manager"))
        end.settimeout(WITHIN_S)
        yield end


@pytest.fixture
def waiting(box: Box) -> Container:
    box.program("sh", "-c", 'echo "$NOTIFY_SOCKET" > /tmp/told; sleep inf')
    return box.create(notify=True)


def say(container: Container, words: bytes) -> None:
    """What a process in the container would say."""
    inside = f"/proc/{container.state.init_pid}/root/run/notify/notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.sendto(words, inside)


def test_a_start_waits_until_the_container_is_ready_and_says_so(
    box: Box, waiting: Container, manager: socket.socket
) -> None:
    with ThreadPoolExecutor() as threads:
        started = threads.submit(waiting.start, manager=manager.getsockname())
        say(waiting, b"STATUS=warming up")
        assert not started.done()
        say(waiting, b"STATUS=warm\nREADY=1")
        assert manager.recv(64) == b"READY=1\n"
        assert manager.recv(64) == b"MAINPID=%d\n" % waiting.state.init_pid
        words, barrier, _, _ = socket.recv_fds(manager, 64, 4)
        assert words == b"BARRIER=1"
        assert not started.done()
        os.close(*barrier)
        started.result(WITHIN_S)
    told = box.bundle.rootfs / "tmp/told"  # it said so before its program had begun
    assert eventually(lambda: told.exists() and told.read_text() == "/run/notify/notify.sock\n")


def test_a_start_does_not_wait_for_a_container_that_has_ended(
    box: Box, manager: socket.socket
) -> None:
    box.program("true")
    container = box.create(notify=True)
    container.start(manager=manager.getsockname())
    container.wait()


def test_what_cannot_be_taken_out_of_its_init_leaves_no_descriptor(waiting: Container) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SetupFailed, match="taking the notify socket"):
        Readiness.of(waiting.state._replace(notify_fd=1000), waiting.dir, "/no/manager")
    assert os.listdir("/proc/self/fd") == before


def test_the_socket_can_be_written_by_every_user_of_the_container(
    box: Box, waiting: Container
) -> None:
    done = box.exec(waiting, "stat -c %a /run/notify/notify.sock")
    assert done.out == "777\n"


def test_a_link_in_the_place_of_its_directory_leads_nowhere_else(box: Box, room: Path) -> None:
    (room / "outside").mkdir()
    (box.bundle.rootfs / "run").rmdir()
    (box.bundle.rootfs / "run").symlink_to(room / "outside")
    box.program("sleep", "inf")
    box.create(notify=True)
    assert not list((room / "outside").iterdir())


def test_descriptors_to_serve_are_passed_on(box: Box, room: Path) -> None:
    (room / "given").write_text("what was given\n")
    box.program("sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3")
    run = shlex.join(
        (str(MIGRATOR), "--root", str(box.root), "run", "--bundle", str(box.bundle.path), box.id)
    )
    script = f"LISTEN_FDS=1 LISTEN_PID=$$ exec {run} 3<{room}/given"
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "1 1\nwhat was given\n"


def test_descriptors_for_another_process_are_not(box: Box, room: Path) -> None:
    box.program("sh", "-c", 'echo "[$LISTEN_FDS]"')
    argv = (MIGRATOR, "--root", box.root, "run", "--bundle", box.bundle.path, box.id)
    environment = os.environ | {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
