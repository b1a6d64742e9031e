"""A process as CRIU leaves it: its memory is missing, and a lazy-pages server is to bring it.

Run as a program it plays CRIU's part too: it registers its memory with a userfaultfd, and hands it
to the server. From then on it does to its memory whatever a process may, each page compared with a
model. Argument: JSON of work_dir, pid, segments [[address, pages], ...], seed, seconds,
finish_after_s, waits (for a line, before it hands its memory over).
"""

import ctypes
import json
import os
import random
import socket
import struct
import sys
import time

from runtime.memory import userfaultfd

PAGE = 4096
FINISHED = 0x52535446
USERFAULTFD = {"x86_64": 323, "aarch64": 282}
FIXED = 0x100000
MAP = 0x02 | 0x20
READ_WRITE = 3
MAYMOVE = 1
DONTNEED = 4

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def word_of(address: int) -> int:
    """What the page at *address* is full of when nobody has written to it."""
    return 0 if address // PAGE % 7 == 3 else address + 1


def content(word: int) -> bytes:
    return struct.pack("Q", word) * (PAGE // 8)


class Segment:
    def __init__(self, address: int, words: list[int]) -> None:
        self.address, self.words = address, words

    def read(self, page: int) -> bytes:
        return ctypes.string_at(self.address + page * PAGE, PAGE)

    def write(self, page: int, word: int) -> None:
        self.words[page] = word
        ctypes.memmove(self.address + page * PAGE, content(word), PAGE)

    def check(self, pages: range) -> None:
        for page in pages:
            found = self.read(page)
            if found != content(self.words[page]):
                raise SystemExit(
                    f"{os.getpid()}: page {self.address + page * PAGE:#x} begins with "
                    f"{found[:8].hex()} in place of {content(self.words[page])[:8].hex()}"
                )


class Victim:
    def __init__(self, segments: list[list[int]], seed: int) -> None:
        self.random = random.Random(seed)
        self.segments = [
            Segment(at, [word_of(at + page * PAGE) for page in range(pages)])
            for at, pages in segments
        ]
        self.uffd = libc.syscall(USERFAULTFD[os.uname().machine], os.O_CLOEXEC | os.O_NONBLOCK)
        events = userfaultfd
        userfaultfd.api(
            self.uffd,
            events.EVENT_FORK | events.EVENT_REMAP | events.EVENT_REMOVE | events.EVENT_UNMAP,
        )
        for at, pages in segments:
            assert libc.mmap(at, pages * PAGE, READ_WRITE, MAP | FIXED, -1, 0) == at
            userfaultfd.register(self.uffd, at, pages * PAGE, userfaultfd.MODE_MISSING)
        self.children: set[int] = set()
        self.done: dict[str, int] = {}

    def hand_over(self, work_dir: str, pid: int, *, waits: bool) -> socket.socket:
        os.chdir(work_dir)
        criu = socket.socket(socket.AF_UNIX)
        criu.connect("lazy-pages.socket")
        criu.sendall(struct.pack("i", pid))
        if waits:
            sys.stdout.write("announced\n")
            sys.stdout.flush()
            sys.stdin.readline()
        socket.send_fds(criu, [b"\0"], [self.uffd])
        os.close(self.uffd)
        return criu

    def some(self, most: int) -> tuple[Segment, range]:
        segment = self.random.choice(self.segments)
        start = self.random.randrange(len(segment.words))
        return segment, range(start, min(start + self.random.randint(1, most), len(segment.words)))

    def read(self) -> None:
        segment, pages = self.some(8)
        segment.check(pages)

    def write(self) -> None:
        segment, pages = self.some(4)
        for page in pages:
            segment.write(page, self.random.getrandbits(63))

    def touch(self) -> None:
        """Write a few bytes into a page, the rest of which has to come from the source."""
        segment, pages = self.some(1)
        ctypes.c_uint64.from_address(segment.address + pages[0] * PAGE + 64).value ^= 0
        segment.check(pages)

    def drop(self) -> None:
        segment, pages = self.some(64)
        assert not libc.madvise(segment.address + pages[0] * PAGE, len(pages) * PAGE, DONTNEED)
        for page in pages:
            segment.words[page] = 0
        segment.check(pages[:2])

    def split(self) -> tuple[Segment, int, int]:
        """Cut some pages out as a segment of their own."""
        segment, pages = self.some(256)
        first, last = pages[0], pages[-1] + 1
        self.segments.remove(segment)
        for low, high in ((0, first), (last, len(segment.words))):
            if low < high:
                self.segments.append(Segment(segment.address + low * PAGE, segment.words[low:high]))
        middle = Segment(segment.address + first * PAGE, segment.words[first:last])
        return middle, first, last

    def move(self) -> None:
        segment, _, _ = self.split()
        size = len(segment.words) * PAGE
        if not self.one_mapping(segment):  # the kernel moves no two of a userfaultfd at once
            self.segments.append(segment)
            return
        grown = size + self.random.choice((0, 0, 8 * PAGE))
        new = libc.mremap(segment.address, size, grown, MAYMOVE)
        if grown == size:  # such a one does not move: make it
            target = libc.mmap(None, size, 0, MAP, -1, 0)
            new = libc.mremap(segment.address, size, size, MAYMOVE | 2, ctypes.c_void_p(target))
        assert new not in (None, (1 << 64) - 1), os.strerror(ctypes.get_errno())
        segment.address = new
        segment.words += [0] * ((grown - size) // PAGE)
        self.segments.append(segment)

    @staticmethod
    def one_mapping(segment: Segment) -> bool:
        end = segment.address + len(segment.words) * PAGE
        with open("/proc/self/maps") as file:
            for line in file:
                low, high = (int(bound, 16) for bound in line.split(" ")[0].split("-"))
                if low <= segment.address < high:
                    return end <= high
        return False

    def unmap(self) -> None:
        if sum(len(each.words) for each in self.segments) > 2000:
            segment, _, _ = self.split()
            assert not libc.munmap(segment.address, len(segment.words) * PAGE)

    def protect(self) -> None:
        """Mappings that are split: one call may not fill both sides of the border."""
        segment, pages = self.some(16)
        assert not libc.mprotect(segment.address + pages[0] * PAGE, len(pages) * PAGE, 1)
        segment.check(pages[:1])
        assert not libc.mprotect(segment.address + pages[0] * PAGE, len(pages) * PAGE, READ_WRITE)

    def fork(self) -> None:
        if len(self.children) > 3:
            self.reap()
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            self.children.add(pid)
            return
        try:
            self.children = set()
            self.random.seed(os.getpid())
            for _ in range(self.random.randrange(40)):
                self.random.choice((self.read, self.write, self.drop, self.move))()
            if self.random.random() < 0.3:
                self.check_all()
            os._exit(0)
        except SystemExit as error:
            sys.stdout.write(f"{error}\n")
            sys.stdout.flush()
        finally:
            os._exit(1)

    def reap(self) -> None:
        pid, status = os.wait()
        self.children.discard(pid)
        if status:
            raise SystemExit(f"child {pid} ended with {status:#x}")

    def check_all(self) -> None:
        for segment in self.segments:
            segment.check(range(len(segment.words)))

    def live(self, seconds: float, finish_after_s: float, criu: socket.socket) -> None:
        deeds = [self.read] * 8 + [self.write] * 4 + [self.touch] * 4
        deeds += [self.drop, self.move, self.unmap, self.protect, self.fork]
        start, finished = time.monotonic(), False
        while (passed := time.monotonic() - start) < seconds or not finished:
            if not finished and passed >= finish_after_s:
                criu.sendall(struct.pack("I", FINISHED))
                finished = True
            deed = self.random.choice(deeds)
            deed()
            self.done[deed.__name__] = self.done.get(deed.__name__, 0) + 1
        self.check_all()
        while self.children:
            self.reap()


def main() -> None:
    plan = json.loads(sys.argv[1])
    victim = Victim(plan["segments"], plan["seed"])
    criu = victim.hand_over(plan["work_dir"], plan["pid"], waits=plan["waits"])
    victim.live(plan["seconds"], plan["finish_after_s"], criu)
    sys.stdout.write(json.dumps(victim.done))


if __name__ == "__main__":
    main()
