"""Tracking by the soft-dirty bit, where the kernel has it.

Source: Documentation/admin-guide/mm/soft-dirty.rst. Reading the bits and clearing them are two
steps, and a write in between would be lost: all threads of the process are stopped meanwhile, as
CRIU does it for a pre-dump. By ptrace and not by the cgroup freezer: what we stop so goes on by
itself when we die, and a process is stopped no longer than its own memory takes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.memory.pagemap import Pagemap
from runtime.memory.ptrace import Thread
from runtime.memory.runs import PAGE, Run, normalized
from runtime.memory.spaces import Space
from runtime.threads import in_a_thread

_STOP_TIMEOUT_S = 0.1
_CLEAR_SOFT_DIRTY = "4"


class SoftDirtySpace(Space):
    """A space whose pages bear a bit when they were written."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.stop_us = 0
        self._cleared = False

    def written(self, own: list[list[Run]], *, final: bool) -> list[Run]:
        self.stop_us = 0
        if final:
            return self._soft_dirty(own) if self._cleared else self.all_of(own)
        return in_a_thread(lambda: self._read_and_clear(own), name="tracer")

    def _read_and_clear(self, own: list[list[Run]]) -> list[Run]:
        try:
            with _stopped(self.pid) as began:
                found = self._soft_dirty(own) if self._cleared else self.all_of(own)
                Path(f"/proc/{self.pid}/clear_refs").write_text(_CLEAR_SOFT_DIRTY)
                self._cleared = True
        except OSError:
            # Not stopped, or not cleared: what is clean is not known, now and next time.
            self._cleared = False
            return self.all_of(own)
        self.stop_us = (time.perf_counter_ns() - began) // 1000
        return found

    def _soft_dirty(self, own: list[list[Run]]) -> list[Run]:
        return normalized(
            run for group in own for mapping in group for run in self.pagemap.soft_dirty(*mapping)
        )


@contextmanager
def _stopped(pid: int) -> Iterator[int]:
    """All threads of *pid* stopped; gives the time (ns) when the first one was."""
    threads: dict[int, Thread] = {}
    began = time.perf_counter_ns()
    try:
        # A thread that is not stopped yet may start another one.
        while new := {int(tid) for tid in os.listdir(f"/proc/{pid}/task")} - threads.keys():
            for tid in new:
                with suppress(ProcessLookupError):
                    threads[tid] = Thread.seize(tid)
                    threads[tid].stop(_STOP_TIMEOUT_S)
        yield began
    finally:
        for thread in threads.values():
            with suppress(OSError):
                thread.detach()


def open_space(pid: int) -> tuple[Space, int]:
    """The space of *pid*; nothing is stopped for that. Raises OSError."""
    return SoftDirtySpace(pid), 0


def unavailable() -> str | None:
    """Why this kernel cannot do it, None if it can: by a page of our own."""
    page = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page[0] = 1
    address = ctypes.addressof(held := ctypes.c_char.from_buffer(page))
    try:
        # Of all pages of ours, as there is no smaller one: nobody else looks at these bits.
        Path("/proc/self/clear_refs").write_text(_CLEAR_SOFT_DIRTY)
        with Pagemap(os.getpid()) as pagemap:
            clean = not pagemap.soft_dirty(address, address + PAGE)
            page[0] = 2
            tracked = clean and bool(pagemap.soft_dirty(address, address + PAGE))
    except OSError as exc:
        return f"soft-dirty: {exc.strerror}"
    finally:
        del held
        page.close()
    return (
        None if tracked else "this kernel does not track soft-dirty pages (CONFIG_MEM_SOFT_DIRTY)"
    )
