"""Pages of private file mappings: what loading has made of programs, their relocations and data.

CRIU restores these itself, from its images (criu/mem.c: vma_entry_can_be_lazy wants anonymous
memory), and they hardly ever change once a program runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

from runtime.memory import maps
from runtime.memory.pagemap import Pagemap
from runtime.memory.runs import PAGE, Run, intersect, normalized

_AT_ONCE = 1 << 20


def loaded_pages(pids: Iterable[int]) -> Iterator[bytes]:
    """Those that *pids* have now, as they are now, some at a time.

    They run on: what is gone is left out.
    """
    for pid in pids:
        with suppress(OSError):
            runs = _runs(pid)
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
                for start, end in runs:
                    yield from _blocks(mem.fileno(), start, end)


def _runs(pid: int) -> list[Run]:
    mappings = [each for each in maps.of_process(pid) if each.inode and not each.shared]
    if not mappings:
        return []
    with Pagemap(pid) as pagemap:
        found = pagemap.present(mappings[0].start, mappings[-1].end)
    present = normalized((start, end) for start, end, _ in found)
    return intersect(present, normalized((each.start, each.end) for each in mappings))


def _blocks(mem_fd: int, start: int, end: int) -> Iterator[bytes]:
    for address in range(start, end, _AT_ONCE):
        with suppress(OSError):  # EIO: unmapped meanwhile
            data = os.pread(mem_fd, min(_AT_ONCE, end - address), address)
            yield data[: len(data) // PAGE * PAGE]
