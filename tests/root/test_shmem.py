"""Shared memory of processes, read from outside."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runtime.memory import shmem
from runtime.memory.runs import PAGE

pytestmark = [pytest.mark.needs_root]

# One mapping without a name and one of a memfd; of the first the parent has pages, and the child.
HOLDER = """
import mmap, os, sys
nameless = mmap.mmap(-1, 1 << 30)
fd = os.memfd_create("shared")
os.ftruncate(fd, 1 << 20)
named = mmap.mmap(fd, 1 << 20)
file = open("/etc/passwd")
other = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
other[0], named[4096]
nameless[:4] = b"here"
named[8192:8196] = b"name"
if os.fork() == 0:
    nameless[1 << 29 : (1 << 29) + 5] = b"there"
    print(os.getppid(), os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holders() -> Iterator[list[int]]:
    """A process that holds shared memory, and its child that does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield [int(pid) for pid in process.stdout.readline().split()]
        process.communicate()


def test_each_piece_is_found_once_with_all_its_pages(holders: list[int]) -> None:
    found = shmem.segments(holders)
    assert [each.size_bytes for each in found] == [2 * PAGE, 2 * PAGE]
    contents = {b"".join(shmem.blocks(each)).rstrip(b"\0") for each in found}
    assert contents == {
        b"here".ljust(PAGE, b"\0") + b"there",
        b"name".rjust(PAGE + 4, b"\0"),
    }


def test_what_is_unmapped_or_gone_has_none(holders: list[int]) -> None:
    found = shmem.segments([*holders, 2**22 - 1])
    assert len(found) == 2
    gone = found[0]._replace(path=f"/proc/{os.getpid()}/map_files/1000-2000")
    assert list(shmem.blocks(gone)) == []


def test_reading_makes_no_pages() -> None:
    memory = mmap.mmap(-1, 1 << 30)
    memory[PAGE * 3] = 1
    (segment,) = (each for each in shmem.segments([os.getpid()]) if each.size_bytes == PAGE)
    assert sum(map(len, shmem.blocks(segment))) == PAGE
    again = [each for each in shmem.segments([os.getpid()]) if each.path == segment.path]
    assert again == [segment]
    memory.close()
