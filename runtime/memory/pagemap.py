"""Which pages of an address space are there, and which were written: PAGEMAP_SCAN and pagemap.

The ioctl is in Linux since 6.7 (Documentation/admin-guide/mm/pagemap.rst); before it, what is
present is read from the entries of /proc/PID/pagemap, 8 bytes a page.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterator
from ctypes import c_uint64
from functools import cache
from typing import Self

from runtime.memory.runs import PAGE, Run, normalized

# linux/fs.h
PAGE_IS_WPALLOWED = 1 << 0
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_HUGE = 1 << 6
PAGE_IS_SOFT_DIRTY = 1 << 7
PAGE_IS_GUARD = 1 << 8  # since 6.15

_PAGEMAP_SCAN = 0xC0606610
_WP_MATCHING = 1 << 0
_CHECK_WPASYNC = 1 << 1
_THERE = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
_NOT_OWN = PAGE_IS_FILE | PAGE_IS_GUARD

# As many as the kernel collects before it writes them out (fs/proc/task_mmu.c: vec_buf_len). With
# more, walk_end stays where it last wrote out before the end, and all behind is walked twice.
_VECTOR_REGIONS = PAGE // 8
_READ_PAGES = 1 << 18

# Of a pagemap entry, read as bytes: the highest has present (63), swapped (62) and file or
# shared anonymous (61); the next one soft-dirty (55). One byte a page that is 1 where it counts.
_PRESENT_OF_HIGHEST = bytes((b >> 6 != 0) and not b >> 5 & 1 for b in range(256))
_SOFT_DIRTY_OF_NEXT = bytes(b >> 7 for b in range(256))
_ONES = re.compile(rb"\x01+")

PresentRun = tuple[int, int, int]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class _Scan(ctypes.Structure):
    # struct pm_scan_arg
    _fields_ = tuple(
        (name, c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    )


class Pagemap:
    """The pagemap of one address space; a context manager.

    It stays with the address space that the process had when it was opened: after an exec or the
    end of the process nothing is present or written any more.
    """

    def __init__(self, pid: int) -> None:
        """Raises OSError: the process is gone, or we may not look into it (ptrace(2))."""
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._vector = (c_uint64 * (3 * _VECTOR_REGIONS))()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def present(self, start: int, end: int, *, anonymous: bool = False) -> list[PresentRun]:
        """Runs with their categories: pages of no file that are in memory or swapped out.

        Not the page of zeros, and no guard pages: what CRIU takes for a process's own pages
        (criu/pagemap-cache.c). Before 6.7 the page of zeros is among them.

        anonymous: no mapping in the range is of a file. The kernel then need not look at what each
        page is of, which takes it 20 of 23 ms for 1 GiB that was not faulted in in order.
        """
        if not supported():
            return [
                (low, high, PAGE_IS_PRESENT) for low, high in self._entries(start, end, soft=False)
            ]
        inverted = PAGE_IS_PFNZERO | _guard() | (0 if anonymous else PAGE_IS_FILE)
        return self._scan(
            start, end, 0, inverted=inverted, mask=inverted, anyof=_THERE, back=_THERE
        )

    def present_and_guards(
        self, start: int, end: int, *, anonymous: bool = False
    ) -> tuple[list[Run], list[Run]]:
        """Runs of what `present` says, and guard regions (madvise(2): MADV_GUARD_INSTALL) where the
        kernel tells of them; in one walk.
        """
        guard = _guard()
        if not guard:
            there = self.present(start, end, anonymous=anonymous)
            return normalized(run[:2] for run in there), []
        told = _THERE | guard
        found = self._scan(
            start,
            end,
            0,
            inverted=PAGE_IS_PFNZERO,
            mask=PAGE_IS_PFNZERO,
            anyof=told,
            back=told if anonymous else told | PAGE_IS_FILE,
        )
        return (
            normalized((low, high) for low, high, what in found if not what & _NOT_OWN),
            normalized((low, high) for low, high, what in found if what & guard),
        )

    def occupied(self, start: int, end: int) -> bool:
        """Whether anything is there, be it the page of zeros: no fault would be seen."""
        if not supported():
            return any(True for _ in self._entries(start, end, soft=False))
        return any(self._scan(start, end, 0, inverted=0, mask=0, anyof=_THERE, back=_THERE))

    def written(self, start: int, end: int, *, protect: bool) -> list[Run]:
        """Present anonymous pages written since they were protected; *protect*: protects them.

        Runs rise, and may touch. Finding and protecting is one step for each page: no write falls
        between. Raises PermissionError where part of the range is not registered for asynchronous
        write-protection; an unknown part of it is then protected.
        """
        flags = _CHECK_WPASYNC | (_WP_MATCHING if protect else 0)
        inverted = PAGE_IS_PFNZERO | _guard()
        found = self._scan(
            start,
            end,
            flags,
            inverted=inverted,
            mask=inverted | PAGE_IS_WRITTEN,
            anyof=_THERE,
            back=PAGE_IS_WRITTEN,
        )
        return [(low, high) for low, high, _ in found]

    def all_registered(self, start: int, end: int) -> bool:
        """Whether every mapping in the range has asynchronous write-protection; no page is read."""
        try:
            # A category that none then has: each mapping is checked, and passed over.
            unlike = PAGE_IS_WPALLOWED
            self._scan(start, end, _CHECK_WPASYNC, inverted=unlike, mask=unlike, back=unlike)
        except PermissionError:
            return False
        return True

    def soft_dirty(self, start: int, end: int) -> list[Run]:
        """Present anonymous pages written since clear_refs was, where the kernel tracks that."""
        return list(self._entries(start, end, soft=True))

    def _scan(
        self,
        start: int,
        end: int,
        flags: int,
        *,
        inverted: int,
        mask: int,
        back: int,
        anyof: int = 0,
    ) -> list[PresentRun]:
        found: list[PresentRun] = []
        vector = self._vector
        words = memoryview(vector).cast("B").cast("Q")
        request = _Scan(
            size=ctypes.sizeof(_Scan),
            flags=flags,
            end=end,
            vec=ctypes.addressof(vector),
            vec_len=_VECTOR_REGIONS,
            category_inverted=inverted,
            category_mask=mask,
            category_anyof_mask=anyof,
            return_mask=back,
        )
        while start < end:
            request.start = start
            count = _libc.ioctl(self._fd, _PAGEMAP_SCAN, ctypes.byref(request))
            if count < 0:
                if (number := ctypes.get_errno()) == errno.ESRCH:
                    return found  # the address space is gone
                raise OSError(number, os.strerror(number), f"pages {start:x}-{end:x}")
            flat = words[: 3 * count].tolist()
            found += zip(flat[0::3], flat[1::3], flat[2::3], strict=True)
            start = max(request.walk_end, start + PAGE)
        return found

    def _entries(self, start: int, end: int, *, soft: bool) -> Iterator[Run]:
        """Runs of private pages that are there, from the entries; *soft*: those written only."""
        for low in range(start, end, _READ_PAGES * PAGE):
            pages = min(_READ_PAGES, (end - low) // PAGE)
            entries = os.pread(self._fd, 8 * pages, low // PAGE * 8)
            flags = entries[7::8].translate(_PRESENT_OF_HIGHEST)
            if soft:
                flags = _both(flags, entries[6::8].translate(_SOFT_DIRTY_OF_NEXT))
            for ones in _ONES.finditer(flags):
                yield low + ones.start() * PAGE, low + ones.end() * PAGE


def _both(a: bytes, b: bytes) -> bytes:
    together = int.from_bytes(a, "little") & int.from_bytes(b, "little")
    return together.to_bytes(len(a), "little")


@cache
def supported() -> bool:
    """Whether this kernel has PAGEMAP_SCAN."""
    return _accepts(PAGE_IS_PRESENT)


@cache
def _guard() -> int:
    """The category of guard pages (MADV_GUARD_INSTALL), 0 where the kernel has none."""
    return PAGE_IS_GUARD if _accepts(PAGE_IS_GUARD) else 0


def _accepts(category: int) -> bool:
    request = _Scan(size=ctypes.sizeof(_Scan), category_anyof_mask=category, return_mask=category)
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.ioctl(fd, _PAGEMAP_SCAN, ctypes.byref(request)) == 0:
            return True
    finally:
        os.close(fd)
    return False
