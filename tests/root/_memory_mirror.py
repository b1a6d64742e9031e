"""A target process, and a mirror of its memory that knows only what a tracker reports."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.memory import maps
from runtime.memory.pagemap import PAGE_IS_PRESENT, Pagemap
from runtime.memory.runs import PAGE, size_pages
from runtime.memory.spaces import identity
from runtime.memory.tracker import Scan, Tracker

SOURCE = Path(__file__).with_name("_memory_target.py").read_text()
NOBODY = 65534
EXECUTE_ITSELF = "os.execv(sys.executable, open('/proc/self/cmdline').read().split('\\0')[:-1])"


class Target:
    """The process; `do` has it execute a line of Python."""

    def __init__(self, **how: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", SOURCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **how,
        )
        self.pid = self.process.pid
        self.do("pass")

    def do(self, line: str) -> None:
        self.begin(line)
        self.answered()

    def begin(self, line: str) -> None:
        """Have it start with what may take long."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answered(self) -> None:
        assert self.process.stdout
        answer = self.process.stdout.readline().strip()
        assert answer == "ok", answer

    def interrupt(self) -> None:
        """Have what was begun end (KeyboardInterrupt), which it answers with."""
        os.kill(self.pid, signal.SIGINT)
        assert self.process.stdout
        answer = self.process.stdout.readline().strip()
        assert answer.endswith("KeyboardInterrupt |"), answer

    def execute_itself(self) -> None:
        """Have it execute its own program anew; everything that it had made is gone then."""
        before = identity(self.pid)
        self.begin(EXECUTE_ITSELF)
        # Not sooner, or the old program would read what is meant for the new one.
        while identity(self.pid) == before:
            time.sleep(0.001)
        self.do("pass")

    def family(self) -> list[int]:
        """Its pid and those of its descendants."""
        pids = [self.pid]
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    pids += map(int, (task / "children").read_text().split())
        return pids

    def stop(self) -> None:
        for pid in self.family():
            os.kill(pid, signal.SIGSTOP)
        for pid in self.family():
            while any(
                state(pid, tid.name) not in "TZ" for tid in Path(f"/proc/{pid}/task").iterdir()
            ):
                time.sleep(0.001)

    def end(self) -> None:
        for pid in reversed(self.family()):
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


def state(pid: int, tid: int | str) -> str:
    text = Path(f"/proc/{pid}/task/{tid}/stat").read_text()
    return text[text.rindex(")") + 2]


@contextmanager
def target(**how: Any) -> Iterator[Target]:
    process = Target(**how)
    try:
        yield process
    finally:
        process.end()


class Mirror:
    """Pages as they were when the tracker last reported them."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.pages: dict[int, dict[int, bytes]] = {}

    def scan(self) -> Scan:
        return self._copied(self.tracker.scan())

    def final(self) -> Scan:
        return self._copied(self.tracker.final())

    def _copied(self, scan: Scan) -> Scan:
        for number in scan.gone:
            self.pages.pop(number, None)
        assert set(scan.fresh) <= scan.written.keys()
        for number, runs in scan.written.items():
            for start, end in runs:
                self._read(number, start, end)
        return scan

    def _read(self, number: int, start: int, end: int) -> None:
        pages = self.pages.setdefault(number, {})
        while start < end:
            buffer = bytearray(end - start)
            length = self.tracker.spaces[number].read_into(buffer, start)
            for offset in range(0, length, PAGE):
                pages[start + offset] = bytes(buffer[offset : offset + PAGE])
            start += length or PAGE

    def differing(self, *, tracked: bool = True) -> list[str]:
        """Every page of the stopped processes that is not as the mirror has it.

        tracked: whether something has to be known of all of them.
        """
        assert tracked == (not any(space.untracked for space in self.tracker.spaces.values()))
        spaces = {space.pid: number for number, space in self.tracker.spaces.items()}
        wrong = []
        for pid in self.tracker._processes():
            kept = self.pages.get(spaces.get(pid, 0), {})
            for address, content in present_pages(pid):
                if kept.get(address) != content:
                    wrong.append(f"{pid}: {address:x}{' (missing)' * (address not in kept)}")
        return wrong


def present_pages(pid: int) -> Iterator[tuple[int, bytes]]:
    """Address and content of each page of its own that a process has, locked ones apart."""
    smaps = Path(f"/proc/{pid}/smaps").read_bytes()
    locked = maps.locked_runs(smaps)
    with Pagemap(pid) as pagemap, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for mapping in maps.of_process(pid):
            if not mapping.anonymous or (mapping.start, mapping.end) in locked:
                continue
            for start, end, categories in pagemap.present(mapping.start, mapping.end):
                for address in range(start, end, PAGE):
                    content = os.pread(mem.fileno(), PAGE, address)
                    # A marker of protection that no page stands behind looks like a swapped one.
                    if categories & PAGE_IS_PRESENT or any(content):
                        yield address, content


def pages_within(scan: Scan, start: int, pages: int) -> int:
    """How many pages of an area a round reported, in all spaces."""
    end = start + pages * PAGE
    return size_pages(
        (max(low, start), min(high, end))
        for runs in scan.written.values()
        for low, high in runs
        if low < end and start < high
    )
