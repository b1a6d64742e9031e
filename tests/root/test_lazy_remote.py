"""Pages from a source host: whatever becomes of the stream and of the server, each one arrives."""

import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.memory.lazy.launch import LazyPagesFailed
from runtime.memory.lazy.page_protocol import serve_pages
from tests.root.lazy_victim import PAGE, content, word_of
from tests.root.test_lazy_server import SPACE, Rig, kill_by_turns
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userfaultfd]


class Source:
    """The frozen source, and whoever passes its stream on to the server, again after each loss."""

    def __init__(self, room: Path) -> None:
        self.room, self.up, self.complete = room, True, False
        self.streams, self.pages, self.delay_s = 0, 0, 0.0
        self._stream: socket.socket | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while self.up and not self.complete:
            with socket.socket(socket.AF_UNIX) as stream, suppress(OSError):
                stream.connect(str(self.room / "pages.socket"))
                self.streams += 1
                self._stream = stream
                self.complete = self.up and serve_pages(
                    stream, self.read, lambda s=stream: bool(select.select([s], [], [], 0)[0])
                )
            time.sleep(0.005)

    def read(self, space: int, start: int, end: int) -> bytes:
        assert space == SPACE
        time.sleep(self.delay_s)
        self.pages += (end - start) // PAGE
        return b"".join(content(word_of(at)) for at in range(start, end, PAGE))

    def cut(self) -> None:
        if self._stream is not None:
            with suppress(OSError):
                self._stream.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self.up = False
        self.cut()
        self._thread.join()


@pytest.fixture
def rig(room: Path) -> Iterator[Rig]:
    rig = Rig(room, pages=1024)
    rig.plan = {"kind": "remote", "give_up_after_s": None}
    yield rig
    rig.sweep()


@pytest.fixture
def source(rig: Rig) -> Iterator[Source]:
    rig.serve()
    source = Source(rig.room)
    yield source
    source.stop()


def test_every_page_arrives_from_the_source(rig: Rig, source: Source) -> None:
    rig.live(1, seconds=0.5, finish_after_s=0.3)
    code, said = rig.status()
    assert (code, rig.lazy.wait(20)) == (0, True), said
    assert eventually(lambda: source.complete)
    assert source.streams == 1
    assert source.pages < 4 * 1024 * 1.3


def test_every_page_arrives_though_the_stream_is_cut(rig: Rig, source: Source) -> None:
    source.delay_s = 0.002
    chance = random.Random(2)
    rig.live(2, seconds=1.5, finish_after_s=0.8)
    assert rig.victim
    while rig.victim.poll() is None:
        time.sleep(chance.uniform(0.005, 0.05))
        source.cut()
    code, said = rig.status()
    assert (code, rig.lazy.wait(20)) == (0, True), said
    assert source.streams > 5


def test_a_stream_that_ends_as_the_memory_is_handed_over_leaves_its_number_to_it(
    rig: Rig, source: Source
) -> None:
    """Both in one look of the server's: the userfaultfd gets the number that the stream had."""
    assert eventually(lambda: source.streams == 1)
    rig.live(7, seconds=1, finish_after_s=0.5, waits=True)
    assert rig.victim
    assert rig.victim.stdin
    assert rig.victim.stdout
    assert rig.victim.stdout.readline() == "announced\n"
    time.sleep(0.1)  # for the server to take that in
    server, _ = rig.lazy.pids
    os.kill(server, signal.SIGSTOP)
    assert eventually(lambda: ") T " in Path(f"/proc/{server}/stat").read_text())
    source.stop()
    rig.victim.stdin.write("go on\n")
    rig.victim.stdin.flush()
    time.sleep(0.1)  # for it to hand over
    os.kill(server, signal.SIGCONT)
    time.sleep(0.1)  # for it to find both
    back = Source(rig.room)
    code, said = rig.status()
    back.stop()
    assert (code, rig.lazy.wait(20)) == (0, True), said


def test_every_page_arrives_though_the_servers_are_killed(rig: Rig, source: Source) -> None:
    source.delay_s = 0.001
    rig.live(3, seconds=1, finish_after_s=0.6)
    killed = kill_by_turns(rig, "both", 3)
    code, said = rig.status()
    assert (code, rig.lazy.wait(20)) == (0, True), said
    assert killed >= 10


def test_tasks_wait_for_a_source_that_is_away(rig: Rig, source: Source) -> None:
    source.stop()
    rig.live(4, seconds=0.2, finish_after_s=0)
    assert eventually(lambda: rig.lazy.progress.faults > 0)
    time.sleep(0.2)
    assert rig.victim
    assert rig.victim.poll() is None
    back = Source(rig.room)
    code, said = rig.status()
    back.stop()
    assert (code, rig.lazy.wait(20)) == (0, True), said


def test_a_source_that_stays_away_is_given_up(rig: Rig) -> None:
    rig.serve(give_up_after_s=0.3)
    rig.live(5, seconds=5, finish_after_s=0)
    code, _ = rig.status()
    assert code == -signal.SIGKILL
    with pytest.raises(LazyPagesFailed, match=r"not heard of for . s; 4096 of 4096 pages"):
        rig.lazy.wait(10)


def test_a_process_that_ends_while_its_source_is_away_ends_the_waiting(rig: Rig) -> None:
    rig.serve()
    rig.live(6, seconds=5, finish_after_s=0)
    assert eventually(lambda: rig.lazy.progress.faults > 0)
    time.sleep(0.1)  # for the end of the restore to be told
    assert rig.victim
    rig.victim.kill()
    assert rig.lazy.wait(10)
