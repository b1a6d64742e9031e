"""Run in a container: processes that change their memory in every way, and know what it must hold.

A script of its own, standard library only. Each part of it compares all of its pages after each
change, and says so in /status/PART: `ok N` after the Nth time, `wrong ADDRESS ...` once.
"""

import ctypes
import mmap
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

PAGE = 4096
POOL = random.Random(7).randbytes(1 << 18)
ZEROS = bytes(PAGE)
SAME = b"same" * (PAGE // 4)

READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
# <linux/mman.h>, <asm-generic/mman-common.h>
MAP_FIXED = 0x10
MREMAP_MOVE_THERE = 1 | 2  # MREMAP_MAYMOVE | MREMAP_FIXED
MADV_DONTNEED, MADV_HUGEPAGE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = 4, 14, 102, 103
HUGE = 2 << 20

libc = ctypes.CDLL(None, use_errno=True)
_address, _size, _int = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
libc.mmap.argtypes = (_address, _size, _int, _int, _int, ctypes.c_long)
libc.munmap.argtypes = (_address, _size)
libc.mremap.argtypes = (_address, _size, _size, _int, _address)
libc.madvise.argtypes = libc.mprotect.argtypes = (_address, _size, _int)
libc.mlock.argtypes = (_address, _size)
libc.sbrk.argtypes = (ctypes.c_long,)
libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = _address
COMMAND = (sys.executable, "-I", "-S", os.path.abspath(__file__))
FAILED = ctypes.c_void_p(-1).value


class Wrong(Exception):
    """A page does not hold what was written to it."""


def call(function: str, *arguments: int) -> int:
    """A call of libc; OSError when it fails."""
    result: int | None = getattr(libc, function)(*arguments)
    if result in (-1, FAILED):
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return result or 0


def content(seed: int, page: int, stamp: int) -> bytes:
    """What page number *page* holds after the write of that stamp; 0: it was not written."""
    kind = (page + stamp) % 8
    if stamp == 0 or kind == 0:
        return ZEROS
    if kind == 1:
        return SAME
    begin = (seed * 7919 + page * 977 + stamp * 131) % (len(POOL) - PAGE)
    return b"%8x%8x%16x" % (seed, page, stamp) + POOL[begin : begin + PAGE - 32]


class Region:
    """Pages in a row, and the stamp of the last write to each."""

    def __init__(
        self,
        seed: int,
        pages: int,
        *,
        address: int | None = None,
        flags: int = PRIVATE,
        fd: int = -1,
        initial: Callable[[int], bytes] = lambda page: ZEROS,
    ) -> None:
        """Map it; address: it is mapped there already."""
        self.seed, self.pages, self.stamp = seed, pages, 0
        self.address = address or call("mmap", 0, pages * PAGE, READ_WRITE, flags, fd, 0)
        self.stamps = [0] * pages
        self.initial = initial
        self.mine = range(pages)

    def at(self, page: int) -> int:
        return self.address + page * PAGE

    def write(self, count: int) -> None:
        """Rewrite so many pages, anywhere."""
        for page in random.choices(self.mine, k=count):
            self.put(page)

    def put(self, page: int) -> None:
        self.stamp += 1
        self.stamps[page] = self.stamp
        ctypes.memmove(self.at(page), content(self.seed, page, self.stamp), PAGE)

    def fill(self) -> None:
        for page in self.mine:
            self.put(page)

    def check(self) -> None:
        """Compare every page."""
        for page in self.mine:
            stamp = self.stamps[page]
            must = content(self.seed, page, stamp) if stamp else self.initial(page)
            if (found := ctypes.string_at(self.at(page), PAGE)) != must:
                raise Wrong(
                    f"{self.at(page):#x}: page {page} of region {self.seed}, stamp {stamp}: "
                    f"{found[:32]!r} in place of {must[:32]!r}"
                )

    def anywhere(self) -> tuple[int, int]:
        """First page and number of a random stretch."""
        first = random.randrange(self.pages)
        return first, random.randint(1, min(64, self.pages - first))

    def emptied(self, first: int, count: int) -> None:
        """These pages hold zeros again."""
        self.stamps[first : first + count] = [0] * count


# ---- what one process does to its memory; each is gone on with when all of it was compared


def rewritten() -> Iterator[Region]:
    """Anonymous memory."""
    region = Region(1, 1536)
    region.fill()
    while True:
        region.write(48)
        yield region


def remapped() -> Iterator[Region]:
    """Unmapped and mapped again where it was, and given back to the kernel."""
    region = Region(2, 512)
    while True:
        region.write(32)
        yield region
        first, count = region.anywhere()
        where, size = region.at(first), count * PAGE
        if random.random() < 0.5:
            call("madvise", where, size, MADV_DONTNEED)
        else:
            call("munmap", where, size)
            call("mmap", where, size, READ_WRITE, PRIVATE | MAP_FIXED, -1, 0)
        region.emptied(first, count)
        yield region


def moved() -> Iterator[Region]:
    """mremap(2): to and fro between two places, smaller and larger."""
    region = Region(3, 256)
    free = call("mmap", 0, 256 * PAGE, 0, PRIVATE, -1, 0)
    region.fill()
    while True:
        region.write(16)
        size = region.pages * PAGE
        call("mremap", region.address, size, size, MREMAP_MOVE_THERE, free)
        region.address, free = free, region.address
        call("mmap", free, size, 0, PRIVATE | MAP_FIXED, -1, 0)  # it stays ours
        yield region
        call("mremap", region.address, size, size // 2, 0, 0)
        call("mmap", region.at(128), size // 2, READ_WRITE, PRIVATE | MAP_FIXED, -1, 0)
        region.emptied(128, 128)
        yield region
        call("munmap", region.at(128), size // 2)
        call("mremap", region.address, size // 2, size, 1, 0)
        region.write(16)
        yield region


def protected() -> Iterator[Region]:
    """Not to be written, not even to be read for a while."""
    region = Region(4, 256)
    region.fill()
    while True:
        for protection in (0, mmap.PROT_READ, READ_WRITE):
            call("mprotect", region.at(64), 128 * PAGE, protection)
            region.mine = range(64) if protection == 0 else range(256)
            yield region
        region.write(32)


def grown() -> Iterator[Region]:
    """The heap's end, by brk(2); malloc(3) may move it too, then another region begins."""
    regions: list[Region] = []
    while True:
        if not regions or call("sbrk", 0) != regions[-1].at(regions[-1].pages):
            call("sbrk", -call("sbrk", 0) % PAGE)
            regions.append(Region(5, 0, address=call("sbrk", 0)))
        region = regions[-1]
        if sum(each.pages for each in regions) < 1024:
            call("sbrk", 4 * PAGE)
            region.pages += 4
            region.stamps += [0] * 4
            region.mine = range(region.pages)
        region.write(4)
        yield from regions


def locked() -> Iterator[Region]:
    """mlock(2), as much as everybody may."""
    region = Region(6, 12)
    call("mlock", region.address, 12 * PAGE)
    while True:
        region.write(4)
        yield region


def private_file() -> Iterator[Region]:
    """A file's pages, half of them changed in memory alone."""
    with open("/file", "wb") as file:
        file.writelines(content(70, page, 3) for page in range(64))
    fd = os.open("/file", os.O_RDONLY)
    region = Region(7, 64, flags=mmap.MAP_PRIVATE, fd=fd, initial=lambda page: content(70, page, 3))
    region_of_memfd = _of_memfd(8, mmap.MAP_PRIVATE)
    while True:
        for each in (region, region_of_memfd):
            first = random.randrange(32)
            each.put(first)
            yield each


def _of_memfd(seed: int, flags: int) -> Region:
    fd = os.memfd_create("churn")
    os.write(fd, b"".join(content(70, page, 3) for page in range(64)))
    return Region(seed, 64, flags=flags, fd=fd, initial=lambda page: content(70, page, 3))


def guarded() -> Iterator[Region]:
    """Pages that must not be touched, between others; without them where the kernel has none."""
    region = Region(9, 64)
    region.fill()
    guard = 20
    while True:
        # Of a page that is still to come the guard would be lost (docs/migration.md).
        ctypes.string_at(region.at(guard), 2 * PAGE)
        try:
            call("madvise", region.at(guard), 2 * PAGE, MADV_GUARD_INSTALL)
        except OSError:
            yield region
            continue
        region.emptied(guard, 2)
        region.mine = range(guard)
        for _ in range(30):
            region.write(2)
            yield region
        for page in (guard, guard + 1):
            if not _faults(region.at(page)):
                raise Wrong(f"{region.at(page):#x}: the guard page can be read")
        call("madvise", region.at(guard), 2 * PAGE, MADV_GUARD_REMOVE)
        region.mine = range(64)
        yield region
        guard = 20 + (guard + 3) % 40


def _faults(address: int) -> bool:
    pid = os.fork()
    if pid == 0:
        ctypes.string_at(address, 1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSEGV


def huge() -> Iterator[Region]:
    """Transparent huge pages, written in part."""
    start = call("mmap", 0, 3 * HUGE, READ_WRITE, PRIVATE, -1, 0)
    region = Region(10, HUGE // PAGE, address=-(-start // HUGE) * HUGE)
    call("madvise", region.address, HUGE, MADV_HUGEPAGE)
    while True:
        region.write(16)
        yield region
        if random.random() < 0.05:
            first, count = region.anywhere()
            call("madvise", region.at(first), count * PAGE, MADV_DONTNEED)
            region.emptied(first, count)


# ---- the parts, each a process or more


class Status:
    """What a part says of itself."""

    def __init__(self, part: str, count: int = 0) -> None:
        self.part, self.count = part, count

    def ok(self) -> None:
        """Everything was compared once more."""
        self.count += 1
        self.say(f"ok {self.count}")
        time.sleep(0.01)

    def say(self, text: str) -> None:
        with open(f"/status/{self.part}.new", "w") as file:
            file.write(text)
        os.rename(f"/status/{self.part}.new", f"/status/{self.part}")


def mappings(status: Status) -> None:
    """One process, all of the above."""
    changes = (rewritten, remapped, moved, protected, grown, locked, private_file, guarded, huge)
    running = [change() for change in changes]
    while True:
        for change in running:
            next(change).check()
        status.ok()


def forking(status: Status) -> None:
    """Children that come and go; both sides write to what they share, page by page their own."""
    region = Region(20, 256)
    region.fill()
    while True:
        pid = os.fork()
        for _ in range(3 if pid else 2):
            region.write(16)
            region.check()
            if pid:
                status.ok()
        if pid == 0:
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            raise Wrong("the child's memory")


def staying(status: Status) -> None:
    """A child that stays, and its own."""
    region = Region(21, 256)
    region.fill()
    other = Status(f"{status.part}-other")
    if os.fork() == 0:
        status = other
    while True:
        region.write(16)
        region.check()
        status.ok()


def executing(status: Status) -> None:
    """Another program every few rounds: an address space of its own."""
    region = Region(30, 256)
    region.fill()
    for _ in range(10):
        region.write(16)
        region.check()
        status.ok()
    os.execv(sys.executable, [*COMMAND, "go-on", str(status.count)])


COMPARE = ctypes.CFUNCTYPE(_int, _address, _address)


def threads(status: Status) -> None:
    """Threads whose stacks hold what they must: frames of C, and pages below them."""
    threading.stack_size(256 << 10)
    others = [Status(f"{status.part}-{number}") for number in range(3)]
    for number, each in enumerate(others):
        threading.Thread(target=guard_against_all, args=(each, _on_a_stack, number)).start()
    while True:
        time.sleep(0.05)
        status.ok()


def _on_a_stack(status: Status, number: int) -> None:
    region = Region(40 + number, 16, address=_own_stack())
    region.fill()
    while True:
        region.write(4)
        if nested(20) != 20:
            raise Wrong("the frames of a stack")
        region.check()
        status.ok()


def _own_stack() -> int:
    """The lowest address of the calling thread's stack."""
    attributes = ctypes.create_string_buffer(64)
    stack, size = ctypes.c_void_p(), ctypes.c_size_t()
    libc.pthread_self.restype = ctypes.c_ulong
    libc.pthread_getattr_np(ctypes.c_ulong(libc.pthread_self()), attributes)
    libc.pthread_attr_getstack(attributes, ctypes.byref(stack), ctypes.byref(size))
    assert stack.value
    return stack.value


def nested(depth: int) -> int:
    """So many frames of qsort(3) above each other, and how many came back."""
    if depth == 0:
        time.sleep(0.02)
        return 0
    found = []

    def compare(one: int, other: int) -> int:
        found.append(nested(depth - 1))
        return 0

    libc.qsort((_int * 2)(), 2, ctypes.sizeof(_int), COMPARE(compare))
    return found[0] + 1


def shared(status: Status) -> None:
    """Two processes, a half each of what they share."""
    regions = [
        Region(50, 128, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
        _of_memfd(51, mmap.MAP_SHARED),
    ]
    half = 0
    other = Status(f"{status.part}-other")
    if os.fork() == 0:
        status, half = other, 1
    for region in regions:
        middle = region.pages // 2
        region.mine = range(half * middle, (half + 1) * middle)
    while True:
        for region in regions:
            region.write(8)
            region.check()
        status.ok()


def outrunning(status: Status) -> None:
    """Half of it holds zeros; a quarter is rewritten faster than any slow link could follow."""
    region = Region(60, 2048)
    for page in region.mine:
        if page % 2:
            ctypes.memset(region.at(page), 0, PAGE)
        else:
            region.put(page)
    while True:
        for page in range(0, 1024, 2):
            region.put(page)
        region.check()
        status.ok()


def idling(status: Status) -> None:
    """Memory that is only looked at, and can be compressed."""
    region = Region(61, 4096, initial=lambda page: b"%16x" % (page + 1) * (PAGE // 16))
    for page in region.mine:
        ctypes.memmove(region.at(page), region.initial(page), PAGE)
    while True:
        region.check()
        status.ok()


PARTS = (mappings, forking, staying, executing, threads, shared)


def guard_against_all(status: Status, part: Callable[..., None], *more: object) -> None:
    """Whatever ends it is told, and ends its process."""
    try:
        part(status, *more)
    except Wrong as error:
        status.say(f"wrong {error}")
    except BaseException as error:  # noqa: BLE001 - whatever it is
        status.say(f"failed: {type(error).__name__}: {error}")
    os._exit(1)


def main(*only: str) -> None:
    """Start all parts, or only those, and say who has ended."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.makedirs("/status", exist_ok=True)
    started = {}
    for part in [globals()[name] for name in only] or PARTS:
        pid = os.fork()
        if pid == 0:
            guard_against_all(Status(part.__name__), part)
        started[pid] = part.__name__
    while True:
        pid, status = os.wait()
        name = started.get(pid, "a child")
        Status("ended").say(f"{name} has ended: {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["go-on"]:
        guard_against_all(Status("executing", int(sys.argv[2])), executing)
    main(*sys.argv[1:])
