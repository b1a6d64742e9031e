"""A process whose memory is tracked: it executes the lines that it is sent, and says `ok`.

Nothing of the project is imported: its source is handed to an interpreter, so that it can run as
anybody, and execute itself anew.
"""

import ctypes
import os
import random
import sys
import threading
import time
import traceback

PAGE = 4096
NONE, READ, WRITE = 0, 1, 2
SHARED, PRIVATE, FIXED, ANONYMOUS, NORESERVE, HUGETLB = 1, 2, 0x10, 0x20, 0x4000, 0x40000
DONTNEED, FREE, MERGEABLE, HUGEPAGE, PAGEOUT = 4, 8, 12, 14, 21
MAYMOVE, REMAP_FIXED = 1, 2

libc = ctypes.CDLL(None, use_errno=True)
for name in ("mmap", "mremap", "sbrk"):
    getattr(libc, name).restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
libc.mremap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.read.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
libc.sbrk.argtypes = (ctypes.c_ssize_t,)
libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def checked(result):
    if result in (-1, 2**64 - 1):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def memory(pages, at=None, prot=READ | WRITE, flags=PRIVATE | ANONYMOUS, fd=-1):
    fixed = 0 if at is None else FIXED
    return checked(libc.mmap(at, pages * PAGE, prot, flags | fixed, fd, 0))


def unmap(address, pages):
    checked(libc.munmap(address, pages * PAGE))


def remap(address, pages, new_pages, to=None):
    flags = MAYMOVE | (0 if to is None else REMAP_FIXED)
    return checked(libc.mremap(address, pages * PAGE, new_pages * PAGE, flags, to))


def protect(address, pages, prot):
    checked(libc.mprotect(address, pages * PAGE, prot))


def advise(address, pages, advice):
    return libc.madvise(address, pages * PAGE, advice)


def fill(address, pages, seed):
    ctypes.memmove(address, random.Random(seed).randbytes(pages * PAGE), pages * PAGE)


def put(address, page, value):
    ctypes.memset(address + page * PAGE + 100, value, 8)


def deep(levels):
    return sum(map(deep, [levels - 1])) if levels else 0


def write_for_ever(address, pages, seed):
    generator = random.Random(seed)
    while True:
        put(address, generator.randrange(pages), generator.randrange(256))
        time.sleep(0.01)  # the interpreter has one lock for all


def start(function, *args):
    threading.Thread(target=function, args=args, daemon=True).start()


def fork(function, *args):
    """A child that does it and then sleeps; its pid."""
    pid = os.fork()
    if pid == 0:
        function(*args)
        while True:
            threading.Event().wait(1)
    return pid


def storm(seed):
    """Change and write mappings at random, for ever, in an area of its own."""
    generator = random.Random(seed)
    pages = 64
    area = memory(pages, at=(seed + 16) << 32)
    while True:
        first = generator.randrange(pages)
        size = generator.randrange(1, pages - first + 1)
        at = area + first * PAGE
        try:
            change(generator, at, size)
        except OSError:  # mremap, of what is in pieces; some of them may have been moved
            memory(size, at=at)


def change(generator, at, size):
    act = generator.randrange(8)
    if act == 0:
        unmap(at, size)
        memory(size, at=at)
    elif act == 1:
        advise(at, size, generator.choice((DONTNEED, FREE)))
    elif act == 2:
        aside = at + (1 << 30)
        remap(at, size, size, to=aside)
        put(aside, 0, 1)
        remap(aside, size, size, to=at)
    elif act == 3:
        protect(at, size, READ)
        protect(at, size, READ | WRITE)
    else:
        fill(at, size, generator.random())


def serve():
    sys.setrecursionlimit(20000)
    names = globals()
    for line in sys.stdin:
        try:
            exec(line, names)
            answer = "ok"
        except BaseException:  # noqa: BLE001 - it is the answer
            answer = traceback.format_exc().replace("\n", " | ")
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
