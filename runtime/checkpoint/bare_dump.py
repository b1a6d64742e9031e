"""A dump without memory, and the pagemaps that make its images whole.

CRIU dumps everything of a container but its private memory (runtime/process/dumping.py says how it
is kept from looking), so that its work does not grow with the memory. The pages are the caller's to
move; what a restore needs beside them is written here: a pagemap for each process that leaves
anonymous pages to a lazy-pages server (PE_LAZY), and the contents of the few pages that CRIU must
restore itself: of private file mappings, locked or huge ones, and under each thread's stack pointer
(criu/mem.c: generate_iovs).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from criu_rpc import Criu, memory_images
from criu_rpc.core_images import restartable_sequences
from criu_rpc.logger import Logger
from criu_rpc.memory_images import (
    PAGE_BYTES,
    PE_LAZY,
    PE_PRESENT,
    PagemapEntry,
    Vma,
    add_guards,
    read_pagemap,
    read_vmas,
    write_pagemap,
)
from runtime.checkpoint.criu_launcher import DUMPING, await_ready, launch, tell
from runtime.memory import maps
from runtime.memory.copying import copied, write_all
from runtime.memory.pagemap import Pagemap
from runtime.memory.runs import Run, intersect, minus, normalized
from runtime.process.channel import Channel
from runtime.processes import strangers, vpid_of
from runtime.state import stat_fields

if TYPE_CHECKING:
    from runtime.container import Container
    from runtime.spec.model import Spec

logger = Logger(__name__)

#: numbers of the pages images that are ours: CRIU counts from 1
FIRST_PAGES_ID = 1 << 20
#: above it lies the vsyscall page, which is the kernel's
_USER_END = 1 << 56


class BareCriu:
    """A criu and its decoy. A context manager: leaving it ends both, and criu undoes its work."""

    def __init__(self, criu: Criu, channel: Channel) -> None:
        self.criu = criu
        self._channel = channel

    @classmethod
    def start(
        cls, criu: str | None = None, *, within: AbstractContextManager[object] | None = None
    ) -> Self:
        """Start them; within: see Criu.start. Raises CriuNotFound, SetupFailed."""
        bare = cls(*launch(DUMPING, criu, within=within))
        memory_images.load()
        try:
            await_ready(bare._channel, "starting criu")
        except BaseException:
            bare.close()
            raise
        return bare

    def hide_all(self, container: Container) -> dict[int, list[Run]]:
        """Hide what CRIU dumps of *container*, while all of it stands still.

        Returns each process and its stack pages. What was started by exec CRIU neither stops nor
        dumps. Raises SetupFailed, OSError; a dump that goes on then would be right, and slow.
        """
        pids = container.processes()
        others = strangers(container.state.init_pid, pids)
        dumped = [pid for pid in pids if pid not in others]
        self.hide(dumped)
        return {pid: stack_pages(pid) for pid in dumped}

    def hide(self, pids: Iterable[int]) -> None:
        """From now on CRIU sees no private memory in *pids*, which must stand still.

        Raises SetupFailed; a dump that goes on then would be right, and slow.
        """
        tell(self._channel, [int(pid) for pid in pids], "hiding memory from criu")

    def close(self) -> None:
        """End criu first: its dump needs the decoy until it has ended."""
        self.criu.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class FrozenMemory:
    """Which pages a process had when it stood still."""

    pid: int
    #: in the container's pid namespace, by which CRIU names the images
    vpid: int
    #: pages in memory or swap that are neither the zero page nor a file's
    present: list[Run]
    #: madvise(2), MADV_GUARD_INSTALL: CRIU asks the same pagemap for them
    guards: list[Run]
    #: the page under each thread's stack pointer
    stacks: list[Run]
    #: where CRIU writes an instruction, and what was there back, for each system call that it makes
    #: in the process: not to be trusted until it holds the dump (compel: find_executable_area)
    poked: list[Run]

    @classmethod
    def of(cls, pid: int, stacks: list[Run]) -> FrozenMemory | None:
        """Look at a process that stands still, or in which CRIU is at work; None if it has ended.

        stacks: see stack_pages.
        """
        try:
            vpid = vpid_of(pid)
            mappings = [each for each in maps.of_process(pid) if each.end <= _USER_END]
            if not mappings:
                return None
            pages, guards = _pages_and_guards(pid, mappings)
        except (ProcessLookupError, FileNotFoundError):
            return None
        code = next((each.start for each in mappings if each.execute), 0)
        return cls(pid, vpid, pages, guards, stacks, [(code, code + PAGE_BYTES)])


def _pages_and_guards(pid: int, mappings: Iterable[maps.Mapping]) -> tuple[list[Run], list[Run]]:
    """Of all *mappings*: asked for together where neighbours are all of files, or none is."""
    pages: list[Run] = []
    guards: list[Run] = []
    with Pagemap(pid) as pagemap:
        for anonymous, group in groupby(mappings, attrgetter("anonymous")):
            first, *rest = group
            last = rest[-1] if rest else first
            found = pagemap.present_and_guards(first.start, last.end, anonymous=anonymous)
            pages += found[0]
            guards += found[1]
    return normalized(pages), normalized(guards)


class Elsewhere(NamedTuple):
    """Pages that are not in the images, but somewhere else."""

    #: what the pagemap says of them: PE_LAZY, PE_PARENT
    flag: int
    #: which these are, of those pages of a process that a lazy restore need not have at once
    of: Callable[[FrozenMemory, list[Run]], list[Run]]


#: all but those that the restorer needs itself
LAZY = Elsewhere(PE_LAZY, lambda memory, pages: minus(pages, memory.stacks))


def lazy_in(images_dir: Path, spec: Spec) -> Elsewhere:
    """LAZY, of a container of *spec* whose images are in *images_dir*.

    In a user namespace nobody serves it before it is whole: the few pages that the kernel may write
    to by then, or read for any `ps`, go along (runtime.memory.heirs). Raises BadImages, OSError.
    """
    if not spec.linux.user_namespace:
        return LAZY
    starts = {each // PAGE_BYTES * PAGE_BYTES for each in restartable_sequences(images_dir)}
    written = normalized((start, start + PAGE_BYTES) for start in starts)

    def of(memory: FrozenMemory, pages: list[Run]) -> list[Run]:
        return minus(minus(LAZY.of(memory, pages), written), _shown(memory.pid))

    return Elsewhere(PE_LAZY, of)


def _shown(pid: int) -> list[Run]:
    """The pages of its arguments and environment, which files in /proc/PID show (proc(5))."""
    bounds = [int(field) for field in stat_fields(pid)[45:49]]
    start, end = min(bounds) // PAGE_BYTES * PAGE_BYTES, max(bounds)
    return [(start, -(-end // PAGE_BYTES) * PAGE_BYTES)] if all(bounds) else []


def complete(
    images_dir: Path, frozen: Iterable[FrozenMemory], elsewhere: Elsewhere = LAZY
) -> dict[int, list[Run]]:
    """Make a bare dump's images whole while the processes still stand still.

    Returns pid -> the runs that are *elsewhere*: with LAZY, left to a lazy-pages server. Raises
    BadImages, OSError; the images are then worthless.
    """
    left: dict[int, list[Run]] = {}
    for number, memory in enumerate(frozen):
        mm = images_dir / f"mm-{memory.vpid}.img"
        if not mm.exists():  # ended, or not part of the tree that CRIU dumps
            continue
        vmas = read_vmas(mm)
        if memory.guards:
            add_guards(mm, memory.guards)
        pages_id = FIRST_PAGES_ID + number
        left[memory.pid] = _complete_one(images_dir, memory, vmas, pages_id, elsewhere)
    return left


def _complete_one(
    images_dir: Path, memory: FrozenMemory, vmas: list[Vma], pages_id: int, elsewhere: Elsewhere
) -> list[Run]:
    path = images_dir / f"pagemap-{memory.vpid}.img"
    own_id, own = read_pagemap(path)
    private = [(vma.start, vma.end) for vma in vmas if vma.private and not vma.by_criu]
    may_be_lazy = [(vma.start, vma.end) for vma in vmas if vma.lazy]
    pages = intersect(memory.present, normalized(private))
    left = elsewhere.of(memory, intersect(pages, normalized(may_be_lazy)))
    eager = minus(pages, left)
    by_criu = normalized((vma.start, vma.end) for vma in vmas if vma.by_criu)
    with (images_dir / f"pages-{own_id}.img").open("rb") as theirs:
        kept = _kept(own, by_criu, theirs.fileno())
    entries = entries_of(left, elsewhere.flag)
    image_path = images_dir / f"pages-{pages_id}.img"
    image_path.unlink(missing_ok=True)  # of a former dump into this directory
    with image_path.open("xb") as image:
        entries += _write_present(image.fileno(), memory.pid, eager, kept)
    write_pagemap(path, pages_id, sorted(entries))
    return left


def entries_of(runs: Iterable[Run], flag: int) -> list[PagemapEntry]:
    """Each of *runs* as an entry of a pagemap."""
    return [PagemapEntry(start, (end - start) // PAGE_BYTES, flag) for start, end in runs]


def _kept(own: Iterable[PagemapEntry], by_criu: list[Run], fd: int) -> dict[Run, bytes]:
    """What CRIU has dumped of its own accord: run -> contents."""
    kept: dict[Run, bytes] = {}
    at = 0
    for entry in own:
        if entry.flags & PE_PRESENT:
            for start, end in intersect([(entry.address, entry.end)], by_criu):
                kept[start, end] = os.pread(fd, end - start, at + start - entry.address)
            at += entry.end - entry.address
    return kept


def _write_present(
    image_fd: int, pid: int, eager: Iterable[Run], kept: Mapping[Run, bytes]
) -> list[PagemapEntry]:
    """Write contents in the order of addresses, as CRIU reads them."""
    runs = sorted([*eager, *kept])
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for start, end in runs:
            if data := kept.get((start, end)):
                write_all(image_fd, memoryview(data))
            else:
                _copy(mem.fileno(), (start, end), image_fd)
    return entries_of(runs, PE_PRESENT)


def _copy(mem_fd: int, run: Run, image_fd: int) -> None:
    if copied(lambda view, at: os.preadv(mem_fd, [view], at), [run], image_fd) != [run]:
        raise OSError(errno.EIO, f"memory at {run[0]:#x} cannot be read")


def stack_pages(pid: int) -> list[Run]:
    """The page under each thread's stack pointer, while all stand still and before CRIU runs code
    of its own in them. proc_pid_syscall(5): it and the pc come last. Raises OSError.
    """
    pages = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            fields = Path(f"/proc/{pid}/task/{task}/syscall").read_bytes().split()
            if len(fields) < 3:
                raise OSError(errno.EBUSY, f"thread {task} does not stand still")
            page = int(fields[-2], 16) // PAGE_BYTES * PAGE_BYTES
            pages.append((page, page + PAGE_BYTES))
    return normalized(pages)
