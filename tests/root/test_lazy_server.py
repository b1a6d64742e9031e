"""Our own lazy-pages server: each page arrives whatever the process does, and whoever is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from runtime.memory.lazy.launch import LazyPages, LazyPagesFailed
from runtime.memory.store import PageStore
from tests.root.lazy_victim import PAGE, content, word_of
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userfaultfd]

PID, SPACE = 7, 5
ROOT = Path(__file__).parents[2]


class Rig:
    """A server, its pages in a file, and the process that it serves."""

    def __init__(self, room: Path, segments: int = 4, pages: int = 2048) -> None:
        self.room = room
        self.segments = [[0x5000_0000_0000 + n * 0x4000_0000, pages] for n in range(segments)]
        self.runs = [(at, at + count * PAGE) for at, count in self.segments]
        file, offset, extents = room / "pages", 0, []
        with file.open("wb") as out:
            for start, end in self.runs:
                out.writelines(content(word_of(at)) for at in range(start, end, PAGE))
                extents.append((start, end, 0, offset))
                offset += end - start
        self.plan = {"kind": "images", "files": [str(file)], "spaces": {SPACE: extents}}
        self.lazy: LazyPages
        self.victim: subprocess.Popen[str] | None = None

    def serve(
        self, *, discard: bool = False, hold: bool = False, hot: Any = None, **changes: Any
    ) -> LazyPages:
        plan = self.plan | changes
        expected = {PID: SPACE}
        self.lazy = LazyPages.start(self.room, plan, expected=expected, discard=discard, hold=hold)
        self.lazy.load({SPACE: self.runs}, hot)
        assert eventually(lambda: all(self.lazy.pids))
        return self.lazy

    def live(
        self, seed: int, *, seconds: float, finish_after_s: float, waits: bool = False
    ) -> None:
        arguments = {
            "segments": self.segments,
            "seed": seed,
            "work_dir": str(self.room),
            "pid": PID,
            "seconds": seconds,
            "finish_after_s": finish_after_s,
            "waits": waits,
        }
        self.victim = subprocess.Popen(
            [sys.executable, "-m", "tests.root.lazy_victim", json.dumps(arguments)],
            cwd=ROOT,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def status(self) -> tuple[int, str]:
        assert self.victim
        said, _ = self.victim.communicate(timeout=60)
        return self.victim.returncode, said

    def sweep(self) -> None:
        if self.victim:
            # the group holds what it has forked, which may wait for pages for ever
            if self.victim.poll() is None:
                os.killpg(self.victim.pid, signal.SIGKILL)
            self.victim.communicate()
        for pid in self.lazy.pids:
            if pid and Path(f"/proc/{pid}/cmdline").exists():
                self.lazy.abort()
        self.lazy.close()


@pytest.fixture
def rig(room: Path) -> Iterator[Rig]:
    rig = Rig(room)
    yield rig
    rig.sweep()


def kill_by_turns(rig: Rig, whom: str, seed: int) -> int:
    """Kill the server, its twin or both by turns, as soon as there are two; return how often."""
    chance, killed, last = random.Random(seed), 0, 0
    assert rig.victim
    while rig.victim.poll() is None:
        time.sleep(chance.uniform(0.001, 0.02))
        server, twin = rig.lazy.pids
        if server and twin and server != twin and last not in (server, twin):
            last = {"server": server, "twin": twin}.get(whom, (server, twin)[killed % 2])
            try:
                os.kill(last, signal.SIGKILL)
            except ProcessLookupError:
                break
            killed += 1
    return killed


def test_every_page_is_right_whatever_the_process_does(rig: Rig) -> None:
    rig.serve()
    rig.live(1, seconds=0.8, finish_after_s=0.4)
    code, said = rig.status()
    assert (code, rig.lazy.wait(20)) == (0, True), said
    deeds = json.loads(said)
    assert {"read", "write", "fork", "move", "drop", "unmap", "protect"} <= deeds.keys()
    assert rig.lazy.missing_pages() == 0
    assert rig.lazy.progress.status == "done"


@pytest.mark.parametrize("whom", ["server", "twin", "both"])
def test_every_page_is_right_whoever_is_killed(rig: Rig, whom: str) -> None:
    rig.serve()
    rig.live(2, seconds=1, finish_after_s=0.6)
    killed = kill_by_turns(rig, whom, 2)
    code, said = rig.status()
    assert (code, rig.lazy.wait(20)) == (0, True), said
    assert killed >= 10
    assert rig.lazy.progress.takeovers >= (0 if whom == "twin" else killed // 2 - 1)


def test_all_is_filled_before_the_process_goes_on_when_that_is_asked_for(rig: Rig) -> None:
    rig.serve()
    rig.live(3, seconds=0, finish_after_s=1)
    assert eventually(lambda: rig.lazy.progress.faults > 0)
    assert rig.lazy.fill(10)
    assert rig.lazy.missing_pages() == 0
    faults = rig.lazy.progress.faults
    assert rig.lazy.progress.filled_pages >= 4 * 2048 - 500
    code, said = rig.status()
    assert (code, rig.lazy.wait(20)) == (0, True), said
    assert rig.lazy.progress.faults >= faults


def test_who_asks_before_the_pages_are_final_waits(rig: Rig) -> None:
    rig.serve(hold=True)
    rig.live(3, seconds=0, finish_after_s=0)
    assert eventually(lambda: rig.lazy.progress.faults > 0)
    os.kill(rig.lazy.pids[0], signal.SIGKILL)
    assert eventually(lambda: rig.lazy.progress.takeovers == 1)
    assert not rig.lazy.fill(0.5)
    assert rig.lazy.progress.filled_pages == 0
    rig.lazy.release()
    code, said = rig.status()
    assert (code, rig.lazy.wait(20)) == (0, True), said


def test_a_process_whose_pages_are_lost_is_killed(rig: Rig) -> None:
    spaces = {SPACE: rig.plan["spaces"][SPACE][:2]}  # type: ignore[index]
    rig.serve(spaces=spaces)
    rig.live(4, seconds=10, finish_after_s=0)
    code, _ = rig.status()
    assert code == -signal.SIGKILL
    with pytest.raises(LazyPagesFailed, match=r"page 0x\w+ of process 5 is in no image"):
        rig.lazy.wait(10)
    assert rig.lazy.progress.status == "failed"


def test_calling_it_off_kills_the_process(rig: Rig) -> None:
    rig.serve()
    rig.live(5, seconds=10, finish_after_s=9)
    assert eventually(lambda: rig.lazy.progress.faults > 0)
    rig.lazy.abort("the migration was given up")
    code, _ = rig.status()
    assert code == -signal.SIGKILL
    with pytest.raises(LazyPagesFailed, match="the migration was given up"):
        rig.lazy.wait(1)


def test_a_criu_that_ends_too_early_takes_its_processes_with_it(rig: Rig) -> None:
    rig.serve()
    rig.live(6, seconds=10, finish_after_s=9)
    assert eventually(lambda: rig.lazy.progress.faults > 0)
    assert rig.victim
    rig.victim.kill()
    assert eventually(lambda: rig.lazy.progress.status == "failed")
    with pytest.raises(LazyPagesFailed, match="criu has ended before the restore was complete"):
        rig.lazy.wait(10)


def test_killing_both_at_once_is_noticed(rig: Rig) -> None:
    lost = Event()
    rig.serve().when_lost(lost.set)
    rig.lazy.ensure_it_serves()
    pids = rig.lazy.pids
    for number in (signal.SIGSTOP, signal.SIGKILL):  # the twin of who is killed is quick
        for pid in pids:
            os.kill(pid, number)
    assert lost.wait(10)
    for asked in (rig.lazy.ensure_it_serves, rig.lazy.wait):
        with pytest.raises(LazyPagesFailed, match="both processes that served them were killed"):
            asked()


def test_pages_come_from_a_page_store_hot_ones_first(rig: Rig) -> None:
    directory = rig.room / "store"
    directory.mkdir(mode=0o700)
    with PageStore.create(directory, 64 << 20) as store:
        for start, end in rig.runs:
            store.put(
                SPACE, start, b"".join(content(word_of(at)) for at in range(start, end, PAGE))
            )
    rig.plan = {"kind": "store", "directory": str(directory)}
    lost = Event()
    rig.serve(discard=True, hot={SPACE: [rig.runs[3], rig.runs[1]]}).when_lost(lost.set)
    rig.live(6, seconds=0.6, finish_after_s=0.4)
    code, said = rig.status()
    assert (code, rig.lazy.wait(20)) == (0, True), said
    assert not lost.is_set()
