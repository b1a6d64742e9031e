"""What runs in the write-heavy container: rewrites pages at a pace, and knows what each must hold.

Page by page the memory is a function of how often that page was written, and that follows from the
number of writes alone: `wrong_pages` compares every byte. Wakes up every millisecond and remembers
its longest gaps by the real-time clock, and how far it was every 50 ms. When a file /ask appears it
answers in /answer. Imports little: what it needs is copied into the container.
"""

import mmap
import os
import sys
import time
import zlib

PAGE = 4096
BLOCK = 16  # so many pages that bear something stand together, then so many of zeros
STRIDE = 3 * 23 * 587  # writes jump by so many pages, see `without_common_divisor`
POOL_BYTES = 16 << 20  # further apart than a compressor looks back
TICK_S = 0.001
KEPT = 5
SAMPLE_EVERY_NS = 50_000_000
SAMPLES = 4000
ROOT = os.environ.get("SCRIBE_ROOT", "")  # where it is not run in a container


class Memory:
    """Pages of which the first *working* ones are rewritten, one after the other by STRIDE.

    half_zero: between them lie as many pages that are in memory and hold zeros.
    """

    def __init__(self, pages: int, working: int, *, half_zero: bool) -> None:
        self.full = pages // 2 if half_zero else pages
        self.half_zero = half_zero
        self.working = without_common_divisor(min(working, self.full))
        self.writes = 0
        self._bytes = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pool = os.urandom(POOL_BYTES)
        for page in range(self.full):
            self._put(page, 0)
        for start in self._zero_blocks():
            for page in range(start, start + BLOCK):
                self._bytes[page * PAGE] = 0

    def write(self, count: int) -> None:
        """Rewrite so many pages."""
        for number in range(self.writes, self.writes + count):
            times, place = divmod(number, self.working)
            self._put(place * STRIDE % self.working, times + 1)
        self.writes += count

    def wrong_pages(self) -> list[int]:
        """Pages that do not hold what was last written to them."""
        times = [0] * self.full
        for place in range(self.working):
            written = (self.writes - place + self.working - 1) // self.working
            times[place * STRIDE % self.working] = written
        wrong = []
        for page, written in enumerate(times):
            at = self._at(page)
            if self._bytes[at : at + PAGE] != self._page(page, written):
                wrong.append(at // PAGE)
        zeros = bytes(BLOCK * PAGE)
        for start in self._zero_blocks():
            if self._bytes[start * PAGE : (start + BLOCK) * PAGE] != zeros:
                wrong.append(start)
        return wrong

    def _put(self, page: int, times: int) -> None:
        at = self._at(page)
        self._bytes[at : at + PAGE] = self._page(page, times)

    def _page(self, page: int, times: int) -> bytes:
        """Its number, how often it was written, and bytes that belong to both."""
        begin = (page * PAGE + times * 977) % (POOL_BYTES - PAGE)
        numbers = page.to_bytes(8, "little") + times.to_bytes(8, "little")
        return numbers + self._pool[begin : begin + PAGE - 16]

    def _at(self, page: int) -> int:
        if self.half_zero:
            page += page // BLOCK * BLOCK
        return page * PAGE

    def _zero_blocks(self) -> range:
        """First page of every block of zeros."""
        return range(BLOCK, 2 * self.full, 2 * BLOCK) if self.half_zero else range(0)


class Clock:
    """The longest gaps between two ticks, and how far the work was from time to time."""

    def __init__(self) -> None:
        self.gaps: list[list[int]] = []
        self.samples: list[list[int]] = []
        self.ticks = 0
        self.last = self.sampled = time.time_ns()

    def tick(self, writes: int) -> None:
        now = time.time_ns()
        if len(self.gaps) < KEPT or now - self.last > self.gaps[-1][0]:
            self.gaps = sorted([*self.gaps, [now - self.last, self.ticks]], reverse=True)[:KEPT]
        if now - self.sampled >= SAMPLE_EVERY_NS:
            self.sampled = now
            self.samples.append([now, writes, time.process_time_ns()])
            del self.samples[:-SAMPLES]
        self.ticks, self.last = self.ticks + 1, now


class Pace:
    """Waits a millisecond, then says how many writes are due at a rate a second."""

    def __init__(self, per_second: float) -> None:
        self._per_ns = per_second / 1e9
        self._last, self._due = time.time_ns(), 0.0

    def __call__(self) -> int:
        time.sleep(TICK_S)
        now = time.time_ns()
        # what was missed while it stood still is not made up for
        self._due += min(now - self._last, 100_000_000) * self._per_ns
        self._last = now
        count = int(self._due)
        self._due -= count
        return count


class Work:
    """Never waits: a fixed amount of work, about a millisecond's, then the writes of one.

    So what slows writing down, slows it down for good: its progress is the measure.
    """

    def __init__(self, per_second: float) -> None:
        self._each = per_second * TICK_S
        self._due, self._rounds = 0.0, 0
        self._data = os.urandom(16 * PAGE)
        begin = time.perf_counter()
        while time.perf_counter() - begin < 0.5:
            zlib.crc32(self._data)
            self._rounds += 1
        self._rounds = max(round(self._rounds * TICK_S / 0.5), 1)

    def __call__(self) -> int:
        for _ in range(self._rounds):
            zlib.crc32(self._data)
        self._due += self._each
        count = int(self._due)
        self._due -= count
        return count


def without_common_divisor(working: int) -> int:
    """So many pages or a few less: STRIDE then visits each of them."""
    while working > 1 and any(working % prime == 0 for prime in (3, 23, 587)):
        working -= 1
    return working


def answer(memory: Memory, clock: Clock) -> None:
    """One JSON object; every page is compared before it is written. Samples begin anew then."""
    facts = {
        "wrong": memory.wrong_pages(),
        "pages": memory.full * (1 + memory.half_zero),
        "not_zero": memory.full * PAGE + POOL_BYTES,
        "writes": memory.writes,
        "ticks": clock.ticks,
        "gaps": clock.gaps,
        "samples": clock.samples,
    }
    with open(f"{ROOT}/answer.new", "w") as file:
        file.write(repr(facts).replace("'", '"'))  # only names, numbers and lists of them
    os.rename(f"{ROOT}/answer.new", f"{ROOT}/answer")
    os.unlink(f"{ROOT}/ask")
    clock.samples.clear()  # to look at every page took time
    clock.last = clock.sampled = time.time_ns()


def main(mib: str, working_mib: str, bytes_per_second: str, how: str, content: str) -> None:
    """how: "paced" or "working"; content: "full" or "half-zero"."""
    pages, working = int(mib) << 8, int(working_mib) << 8
    memory = Memory(pages, working, half_zero=content == "half-zero")
    per_second = float(bytes_per_second) / PAGE
    due = Work(per_second) if how == "working" else Pace(per_second)
    clock = Clock()
    while True:
        memory.write(due())
        clock.tick(memory.writes)
        if clock.ticks % 100 == 0 and os.path.exists(f"{ROOT}/ask"):
            answer(memory, clock)


if __name__ == "__main__":
    main(*sys.argv[1:])
