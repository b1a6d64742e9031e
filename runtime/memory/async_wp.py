"""Tracking by asynchronous write-protection: userfaultfd and PAGEMAP_SCAN, Linux 6.7.

The mappings are registered with a userfaultfd of the target's memory that we alone hold. A write to
a protected page takes the protection off, inside the kernel, and PAGEMAP_SCAN finds such pages and
protects them again. Rules that keep it right:

- What is not registered is dirty: munmap and mmap at the same place, mremap, exec and fork all end
  there. It is registered, protected, and then everything that is there is reported.
- What somebody else has registered (the process itself) is dirty always: he protects as he likes.
- Closing the descriptor, also by our death, takes registration and protection off.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress

from runtime.memory import userfaultfd
from runtime.memory.injection import take_userfaultfd
from runtime.memory.pagemap import supported
from runtime.memory.registers import machine
from runtime.memory.runs import Run, normalized
from runtime.memory.spaces import Space


class ProtectedSpace(Space):
    """A space whose written pages the kernel tells."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.userfaultfd = -1

    def adopt(self, fd: int) -> None:
        """Track by the userfaultfd *fd* of this memory, which is closed with the space."""
        self.on_close(lambda: os.close(fd))
        userfaultfd.api(fd, userfaultfd.WP_ASYNC | userfaultfd.WP_UNPOPULATED)
        self.userfaultfd = fd

    def written(self, own: list[list[Run]], *, final: bool) -> list[Run]:
        if self.userfaultfd < 0:
            return self.all_of(own)
        found: list[Run] = []
        # Together, holes included: most processes are a few groups, some have 10000 mappings.
        for mappings in own:
            runs = self._of_registered(mappings, final=final)
            found += self._one_by_one(mappings, final=final) if runs is None else runs
        return normalized(found)

    def _one_by_one(self, mappings: list[Run], *, final: bool) -> list[Run]:
        found: list[Run] = []
        for mapping in mappings:
            runs = self._of_registered([mapping], final=final)
            found += self._of_fresh(mapping, final=final) if runs is None else runs
        return found

    def _of_registered(self, mappings: list[Run], *, final: bool) -> list[Run] | None:
        """None, where nothing was protected: not all of them are registered, and by us."""
        run = mappings[0][0], mappings[-1][1]
        # Registering again changes nothing, but tells whether it is ours (EBUSY).
        if not self.pagemap.all_registered(*run) or not self._register(run):
            return None
        with suppress(PermissionError):
            found = self.pagemap.written(*run, protect=not final)
            if self.pagemap.all_registered(*run) and self._register(run):
                return found
        if final and len(mappings) > 1:
            # CRIU's parasite has come to lie between them. Nothing was protected: ask each alone.
            return None
        # Changed under our hands: what the scan has found and protected is lost.
        return self.all_of([mappings])

    def _of_fresh(self, mapping: Run, *, final: bool) -> list[Run]:
        """Protect from now on what can be, then list what is there."""
        if not final and self._register_anew(mapping):
            # Unmapped or replaced since: the next round finds out.
            with suppress(PermissionError):
                self.pagemap.written(*mapping, protect=True)
        return self.all_of([[mapping]])

    def _register_anew(self, run: Run) -> bool:
        """Register, with no protection left of an earlier registration.

        When mremap(2) merges what it moves with a mapping beside, the kernel forgets that this is
        registered too (fs/userfaultfd.c: mremap_userfaultfd_prep), and leaves its pages marked as
        protected. One that was written then is writable and marked: it would tell of no write.
        """
        start, end = run
        if not self._register(run):
            return False
        with suppress(OSError):  # replaced meanwhile: the next round finds out
            userfaultfd.unregister(self.userfaultfd, start, end - start)
        return self._register(run)

    def _register(self, run: Run) -> bool:
        start, end = run
        try:
            userfaultfd.register(self.userfaultfd, start, end - start, userfaultfd.MODE_WP)
        except OSError as exc:
            # Then the address space is gone, and with it what could be missed.
            return exc.errno == errno.ESRCH
        return True


def open_space(pid: int) -> tuple[Space, int]:
    """The space of *pid*, and for how many microseconds it was stopped for that.

    To be called in a thread that ends soon (ptrace). Raises OSError: see take_userfaultfd.
    """
    space = ProtectedSpace(pid)
    try:
        fd, stop_us = take_userfaultfd(pid, space.mem_fd)
        space.adopt(fd)
    except BaseException:
        space.close()
        raise
    return space, stop_us


def unavailable() -> str | None:
    """Why this kernel or machine cannot do it, None if it can."""
    here = machine()
    if here is None:
        return f"no registers known for {os.uname().machine}"
    if not supported():
        return "no PAGEMAP_SCAN in this kernel (Linux 6.7 has it)"
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(here.userfaultfd, os.O_CLOEXEC | userfaultfd.USER_MODE_ONLY)
    if fd < 0:
        return f"userfaultfd: {os.strerror(ctypes.get_errno())}"
    try:
        userfaultfd.api(fd, userfaultfd.WP_ASYNC | userfaultfd.WP_UNPOPULATED)
    except OSError:
        return "no asynchronous write-protection in this kernel (Linux 6.7 has it)"
    finally:
        os.close(fd)
    return None
