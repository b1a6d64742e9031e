"""Userfaultfds that processes of a user namespace, who may have none, inherit."""

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from runtime.memory import userfaultfd
from runtime.memory.heirs import Heirs
from runtime.memory.runs import PAGE

pytestmark = [pytest.mark.vm, pytest.mark.needs_root, pytest.mark.needs_userfaultfd]

SIZE = 16 * PAGE
# Two children in a user namespace, of which one has forked the other; each tells where memory of
# its own is, and says later what a system call and it itself read there.
FORKING = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (*[ctypes.c_void_p, ctypes.c_size_t], *[ctypes.c_int] * 3, ctypes.c_long)
size, touched = int(sys.argv[1]), sys.argv[2:]
sys.stdin.readline()
if os.fork() == 0:
    assert libc.unshare(0x10000000) == 0
    forked = os.fork()
    at = libc.mmap(None, size, 3, 0x22, -1, 0)
    if touched:
        ctypes.c_char.from_address(at).value
    os.write(1, b"%d %d\\n" % (os.getpid(), at))
    if forked:
        os.waitpid(forked, 0)
    else:
        sys.stdin.readline()
    reading, writing = os.pipe()
    libc.write(writing, ctypes.c_void_p(at), 4)
    os.write(1, os.read(reading, 4) + ctypes.string_at(at + size // 2, 4) + b"\\n")
    os._exit(0)
os.wait()
"""


@pytest.fixture
def forking(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    python = (sys.executable, "-I", "-S", "-c", FORKING, str(SIZE))
    touched = ("touched",) if getattr(request, "param", False) else ()
    process = subprocess.Popen(
        (*python, *touched), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def forked(process: subprocess.Popen[str]) -> dict[int, list[tuple[int, int]]]:
    """The memory of each of the two, by its pid."""
    go_on(process)
    told = (map(int, said(process).split()) for _ in range(2))
    return {pid: [(at, at + SIZE)] for pid, at in told}


def answer(uffd: int, content: bytes) -> None:
    """Give whoever waits for the first and the middle page *content*."""
    page = mmap.mmap(-1, PAGE)
    page[: len(content)] = content
    os.set_blocking(uffd, True)
    for _ in range(2):
        (event,) = userfaultfd.events(os.read(uffd, userfaultfd.MESSAGE_BYTES))
        assert isinstance(event, userfaultfd.Pagefault)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        userfaultfd.copy(uffd, event.address // PAGE * PAGE, address, PAGE)


def test_faults_of_each_are_seen_those_of_the_kernel_too(
    forking: subprocess.Popen[str],
) -> None:
    with closing(Heirs(forking.pid)) as heirs:
        lazy = forked(forking)
        watched = heirs.watch(lazy)
        assert watched.keys() == lazy.keys()
        parent, child = sorted(lazy)
        go_on(forking)
        for pid, content in ((child, b"this"), (parent, b"that")):
            answer(watched[pid], content)
            assert said(forking) == 2 * content.decode()


def test_who_was_forked_before_has_none(forking: subprocess.Popen[str]) -> None:
    lazy = forked(forking)
    with (
        closing(Heirs(forking.pid)) as heirs,
        pytest.raises(ProcessLookupError, match="it has inherited no userfaultfd"),
    ):
        heirs.watch(lazy)


@pytest.mark.parametrize("forking", [True], indirect=True)
def test_what_is_there_already_cannot_be_waited_for(forking: subprocess.Popen[str]) -> None:
    with (
        closing(Heirs(forking.pid)) as heirs,
        pytest.raises(OSError, match="something is at "),
    ):
        heirs.watch(forked(forking))


def test_nothing_is_left_of_it(forking: subprocess.Popen[str]) -> None:
    before = os.listdir("/proc/self/fd")
    heirs = Heirs(forking.pid)
    forked(forking)
    heirs.close()
    heirs.close()
    assert os.listdir("/proc/self/fd") == before
