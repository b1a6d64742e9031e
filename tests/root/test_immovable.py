"""What no checkpoint carries is told before anything is frozen, by what processes really have."""

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import Status
from runtime.checkpoint.immovable import objections
from runtime.memory import userfaultfd
from runtime.spec.reading import parse
from tests.containers import Box

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

PROGRAM = Path(sys.executable).with_name("migrator")
WITHOUT_SYS_RESOURCE = ("setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-all")
IO_URING_SETUP = 425
IO_URING_PARAMS_BYTES = 120


@pytest.fixture
def ring() -> Iterator[None]:
    """We have an io_uring, as a program that uses one: mapped."""
    params = ctypes.create_string_buffer(IO_URING_PARAMS_BYTES)
    fd = ctypes.CDLL(None).syscall(IO_URING_SETUP, 1, params)
    if fd < 0:
        pytest.skip("this kernel lets nobody have an io_uring (sysctl kernel.io_uring_disabled)")
    with mmap.mmap(fd, mmap.PAGESIZE, flags=mmap.MAP_SHARED):
        os.close(fd)
        yield


@pytest.mark.usefixtures("ring")
def test_a_process_with_an_io_uring_is_named(box: Box) -> None:
    spec = parse(box.bundle.spec, box.bundle.path / "config.json")
    (reason,) = objections(spec, [os.getppid(), os.getpid()])
    assert reason.startswith(f"process {os.getpid()} uses io_uring")


@pytest.fixture
def missing_page() -> Iterator[None]:
    """We have a page that is not there, and whose first touch waits for a server."""
    number = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
    fd = ctypes.CDLL(None).syscall(number, os.O_CLOEXEC)
    with os.fdopen(fd), mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE) as page:
        userfaultfd.api(fd, 0)
        at = ctypes.addressof(ctypes.c_char.from_buffer(page))
        userfaultfd.register(fd, at, mmap.PAGESIZE, userfaultfd.MODE_MISSING)
        yield


@pytest.mark.needs_userfaultfd
@pytest.mark.usefixtures("missing_page")
def test_a_process_whose_memory_is_not_all_there_is_named(box: Box) -> None:
    spec = parse(box.bundle.spec, box.bundle.path / "config.json")
    (reason,) = objections(spec, [os.getppid(), os.getpid()])
    assert reason.startswith(f"process {os.getpid()} waits for pages")


def test_limits_that_criu_may_not_read_are_told_of_once(box: Box, room: Path) -> None:
    user = {"uid": 1000, "gid": 1000}
    box.program("sh", "-c", "sleep 1000 & wait", user=user)
    container = box.start()
    argv = [*WITHOUT_SYS_RESOURCE, PROGRAM, "--root", box.root, "checkpoint", box.id]
    done = subprocess.run(argv, cwd=room, capture_output=True, text=True, check=False)
    pid = container.state.init_pid
    assert done.returncode == 1
    assert f"process {pid} runs as another user, and its resource limits" in done.stderr
    assert done.stderr.count("another user") == 1
    assert container.status() is Status.RUNNING
    assert not (room / "checkpoint").exists()
