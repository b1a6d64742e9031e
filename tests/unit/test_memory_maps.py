"""The list of mappings: what is a process's own memory, and what is not."""

import ctypes
import mmap
import os

from runtime.memory import maps
from runtime.memory.pagemap import Pagemap
from runtime.memory.runs import PAGE, size_pages

TEXT = b"""\
00400000-00401000 r-xp 00000000 fe:01 1234                               /usr/bin/a b (deleted)
00601000-00602000 rw-p 00001000 fe:01 1234                               /usr/bin/a b (deleted)
01a2b000-01a4c000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000021000 rw-p 00000000 00:00 0 
7f0000021000-7f0004000000 ---p 00000000 00:00 0 
7f1000000000-7f1000001000 rw-s 00000000 00:01 77                         /dev/zero (deleted)
7f1000200000-7f1000400000 rw-p 00000000 00:0f 99                         /anon_hugepage (deleted)
7f2000000000-7f2000001000 rw-p 00000000 00:00 0                          [anon:some name]
7f2000001000-7f2000002000 rw-s 00000000 00:00 0                          [anon_shmem:name]
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
7ffd000a0000-7ffd000a4000 r--p 00000000 00:00 0                          [vvar]
7ffd000a4000-7ffd000a6000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291 - so the kernel writes it


def test_every_field_is_parsed() -> None:
    first = maps.parse(TEXT)[0]
    assert first == (
        0x400000,
        0x401000,
        True,
        False,
        True,
        False,
        0,
        "fe:01",
        1234,
        "/usr/bin/a b (deleted)",
    )


def test_only_private_memory_of_no_file_is_anonymous() -> None:
    mappings = maps.parse(TEXT)
    own = [m for m in mappings if m.anonymous]
    assert [m.path for m in own] == ["[heap]", "", "", "[anon:some name]", "[stack]"]
    runs = [(m.start, m.end) for m in own]
    # Between the second and third one lie mappings of files.
    assert maps.anonymous_groups(TEXT) == [runs[:3], runs[3:4], runs[4:]]


def test_the_short_way_agrees_with_the_long_one_on_a_real_process() -> None:
    with open("/proc/self/maps", "rb") as file:
        text = file.read()
    runs = [run for group in maps.anonymous_groups(text) for run in group]
    assert runs == [(m.start, m.end) for m in maps.parse(text) if m.anonymous]
    assert runs


def test_locked_mappings_are_told_by_their_flags() -> None:
    smaps = b"""\
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
Locked:                0 kB
VmFlags: rd wr mr mw me ac sd
7f1000000000-7f1000001000 rw-p 00000000 00:00 0
Locked:                4 kB
VmFlags: rd wr mr mw me lo ac sd
"""
    assert maps.locked_runs(smaps) == [(0x7F1000000000, 0x7F1000001000)]


def test_pages_that_were_touched_are_present() -> None:
    memory = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    before = {(m.start, m.end) for m in maps.of_process(os.getpid()) if m.anonymous}
    for page in (3, 4, 9):
        memory[page * PAGE] = 1
    with Pagemap(os.getpid()) as pagemap:
        found = [run for low, high in sorted(before) for run in pagemap.present(low, high)]
    assert size_pages((low, high) for low, high, _ in found) >= 3
    memory.close()


def test_each_of_many_runs_is_told_once() -> None:
    """More of them than the kernel collects at a time, and a lot that is there behind them."""
    scattered, solid = 3 * (PAGE // 8) + 7, 2048
    size = (2 * scattered + solid) * PAGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in (*range(0, 2 * scattered, 2), *range(2 * scattered, size // PAGE)):
        memory[page * PAGE] = 1
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with Pagemap(os.getpid()) as pagemap:
        found = [
            (low - start, high - start) for low, high, _ in pagemap.present(start, start + size)
        ]
    expected = [(page * PAGE, (page + 1) * PAGE) for page in range(0, 2 * scattered, 2)]
    assert found == [*expected, (2 * scattered * PAGE, size)]
