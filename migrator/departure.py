"""The memory of a container on its way out: copy rounds while it runs, the rest when it is frozen.

    attach -> copy rounds -> (freeze) begin -> complete -> settle: all is sent, and verified there

A round asks the tracker which pages were written, and sends those; what was found and not sent yet
is *pending*. Under the freeze the last pages go while CRIU dumps all else, which is told to find no
memory (runtime.checkpoint.bare_dump), and while the destination restores it; which pages a process
really had then is compared with what was sent, and both sides compare a digest of every page.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from migrator import rounds
from migrator.errors import MigrationError
from migrator.messages import Filled
from migrator.pages.sender import Sender
from migrator.plan import Plan
from migrator.report import Memory, Round
from runtime import Container
from runtime.checkpoint.bare_dump import BareCriu, FrozenMemory, complete, lazy_in
from runtime.memory import keeper
from runtime.memory.runs import Run, intersect, size_pages, union
from runtime.memory.tracker import Scan, Tracker
from runtime.state import lock

#: pages told to the destination as hot: the rest it fills by address
HOT_PAGES = 8192
#: of the downtime, what no round shortens: CRIU's dump and restore of all but the memory
FIXED_MS = 80.0
#: under the freeze; a link that has become as slow is no link to move over
LAST_PAGES_S = 30.0
#: just before the freeze: what is sent while CRIU dumps all else is no matter
FEW_PAGES = 128
CATCH_UP_ROUNDS = 12
BURSTS = 1
#: between two looks whether all is well
RUNS_AT_ONCE = 64
#: so many are worth to slow a container down, to this share of the CPU that it uses
MANY_PAGES = 512
BRAKE = 0.3
CLEARLY_LESS = 0.8


class Departure:
    """The memory of one container that is leaving; a resource, which `close` or `abort` ends.

    alive: called between runs; what it raises ends the copying. slow_down: leave the container that
    share of the CPU that it uses.
    """

    def __init__(
        self,
        container: Container,
        plan: Plan,
        sender: Sender,
        *,
        alive: Callable[[], None],
        slow_down: Callable[[float], None],
    ) -> None:
        self.container, self.plan, self.sender = container, plan, sender
        self._alive, self._slow_down = alive, slow_down
        with lock(container.dir):
            keeper.end(container.dir)  # of an incremental checkpoint, which tracks the same memory
        self._tracker = Tracker.attach(container.processes)
        self._rounds: list[rounds.Round] = []
        self._told: list[Round] = []
        self._heat = rounds.Heat()
        self._pending: dict[int, list[Run]] = {}
        self._stop_us = 0
        self._frozen: list[FrozenMemory] = []
        self._last: threading.Thread | None = None
        #: it is known which pages there are
        self._looked = threading.Event()
        self._lazy: dict[int, list[Run]] = {}
        self._error: BaseException | None = None

    def copy_rounds(self) -> None:
        """Copy until what is left can be moved in the planned downtime, or no more is gained."""
        limits = rounds.Limits(
            downtime_ms=self.plan.downtime_ms,
            fixed_ms=FIXED_MS,
            max_rounds=self.plan.max_rounds,
            max_time_s=self.plan.max_time_s,
            converge=self.plan.converge,
        )
        share = 1.0
        self._look()
        while True:
            before = self.sender.flow.copy()
            self._send_pending()
            arrived = self.sender.mark()
            sent = self.sender.flow.since(before)
            self._look()
            left = self._pending_pages()
            done = rounds.Round(arrived.bytes_sent, arrived.seconds, sent.data_pages, left, share)
            self._rounds.append(done)
            decision = rounds.decide(self._rounds, limits)
            pages = sent.data_pages + sent.zero_pages + sent.same_pages
            self._told.append(
                Round(len(self._rounds), pages, done.bytes_sent, done.seconds, left, decision.why)
            )
            if not decision.go_on:
                return
            if decision.cpu_share != share:
                share = decision.cpu_share
                self._slow_down(share)

    def catch_up(self) -> None:
        """Rounds for what was written since the last, as long as each leaves clearly less.

        What the last look has found is sent in any case: it stays clean, or is hot. One that writes
        much is slowed down for these moments: what it writes in them it would be frozen for. Most
        write in bursts, and one burst is waited out. Each round is verified, so that under the
        freeze only the last pages have to be.
        """
        least, in_vain = 0, 0
        for number in range(CATCH_UP_ROUNDS):
            self._look()
            left = self._pending_pages()
            if number == 0 and left > MANY_PAGES:
                self._slow_down(BRAKE)
            self._send_pending()
            self._keep_pending(self.sender.verify_sent())
            in_vain = in_vain + 1 if number and left > CLEARLY_LESS * least else 0
            least = min(left, least) if number else left
            if (number and left <= FEW_PAGES) or in_vain > BURSTS:
                return

    def begin(self, bare: BareCriu) -> None:
        """All stands still: hide the memory from CRIU, and send what is left while it dumps."""
        stacks = bare.hide_all(self.container)
        self._last = threading.Thread(
            target=self._send_last, args=(stacks,), name="last-pages", daemon=True
        )
        self._last.start()

    def complete(self, images_dir: Path, alive: Callable[[], None]) -> dict[str, int]:
        """With the dump held: make its images whole. Its last pages may still be on their way.

        Returns each process, by its pid inside, and its space.
        """
        while not self._looked.wait(0.1):
            alive()
        if self._error is not None:
            raise self._error
        elsewhere = lazy_in(images_dir, self.container.spec)
        self._lazy = complete(images_dir, self._frozen, elsewhere)
        space_of = self._space_of
        return {str(each.vpid): space_of[each.pid] for each in self._left_lazy}

    def settle(self, alive: Callable[[], None]) -> None:
        """Have every page sent, and verified there: they may be used then."""
        assert self._last is not None
        deadline = time.monotonic() + LAST_PAGES_S
        while self._last.is_alive():
            self._last.join(0.1)
            alive()
            if time.monotonic() > deadline:
                raise MigrationError(f"the last pages were not sent within {LAST_PAGES_S:g} s")
        if self._error is not None:
            raise self._error
        space_of = self._space_of
        lazy = {space_of[pid]: runs for pid, runs in self._lazy.items()}
        for memory in self._left_lazy:
            space = space_of[memory.pid]
            self._send((space, run) for run in intersect(lazy[space], memory.poked))
        if missing := self.sender.verify(lazy):  # never reported, or not readable before
            self._send((space, run) for space, runs in missing.items() for run in runs)
            if self.sender.verify(lazy):
                raise MigrationError("pages are missing at the destination, though they were sent")
        self.sender.say_whole()

    def hot(self) -> list[list[int]]:
        """[space, start, end] of what was written most, the hottest first."""
        hottest = self._heat.hottest(HOT_PAGES)
        return [[space, start, end] for space, runs in hottest.items() for start, end in runs]

    def report(self, filled: Filled | None) -> Memory:
        """How it went."""
        flow = self.sender.flow
        return Memory(
            tracker=self._tracker.kind,
            stop_us=self._stop_us,
            rounds=self._told,
            bytes=flow.bytes_sent,
            data_pages=flow.data_pages,
            zero_pages=flow.zero_pages,
            same_pages=flow.same_pages,
            filled=filled,
        )

    def close(self) -> None:
        """Let the container go, and say at the destination that nothing follows."""
        self._tracker.close()
        with suppress(MigrationError):
            self.sender.close()

    def abort(self) -> None:
        """Let the container go, whatever is being sent."""
        self.sender.abort()
        if self._last is not None:
            self._last.join()
        self._tracker.close()

    @property
    def _space_of(self) -> dict[int, int]:
        return {space.pid: number for number, space in self._tracker.spaces.items()}

    @property
    def _left_lazy(self) -> list[FrozenMemory]:
        return [memory for memory in self._frozen if memory.pid in self._lazy]

    def _pending_pages(self) -> int:
        return sum(size_pages(runs) for runs in self._pending.values())

    def _look(self) -> None:
        self._note(self._tracker.scan())

    def _note(self, scan: Scan) -> None:
        self._stop_us = max(self._stop_us, scan.stop_us)
        for space in scan.gone:
            self._pending.pop(space, None)
            self._heat.drop(space)
            self.sender.send_gone(space)
        self._heat.add(scan.written)
        for space, runs in scan.written.items():
            self._pending[space] = union(self._pending.get(space, []), runs)

    def _keep_pending(self, missing: dict[int, list[Run]]) -> None:
        for space, runs in missing.items():
            self._pending[space] = union(self._pending.get(space, []), runs)

    def _send_pending(self) -> None:
        pending, self._pending = self._pending, {}
        self._send(self._heat.order(pending))

    def _send(self, runs: Iterable[tuple[int, Run]]) -> None:
        for space, found in groupby(runs, key=itemgetter(0)):
            read = self._tracker.spaces[space].read_into
            while some := [run for _, run in islice(found, RUNS_AT_ONCE)]:
                self.sender.send_runs(space, some, read)
                self._alive()

    def _send_last(self, stacks: dict[int, list[Run]]) -> None:
        try:
            self._note(self._tracker.final())
            found = [FrozenMemory.of(pid, pages) for pid, pages in stacks.items()]
            self._frozen = [memory for memory in found if memory is not None]
            self._looked.set()
            pending, self._pending = self._pending, {}
            self._send((space, run) for space, runs in pending.items() for run in runs)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._error = error
            self._looked.set()
