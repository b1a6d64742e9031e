"""The lazy-pages server: one process, one thread, one loop over what the container's tasks ask.

What wants an answer comes first: events of the userfaultfds, then CRIU. Only when nothing does, the
next piece of what is missing is filled.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from runtime.memory import userfaultfd
from runtime.memory.lazy import protocol
from runtime.memory.lazy.filler import Filler, page_of
from runtime.memory.lazy.filling import Filling
from runtime.memory.lazy.layout import (
    EVENT_BYTES,
    EVENTS,
    FROM_CRIU,
    FROM_UFFD,
    LOG_EVENTS,
    ORDER_ABORT,
    ORDER_FILL,
    ORDER_HOLD,
    SERVING,
    W_CONNECTION,
    W_EVENTS,
    W_FAULT_NS,
    W_FAULTS,
    W_ORDERS,
    W_STATUS,
    W_TOTAL,
)
from runtime.memory.lazy.pages import Pages
from runtime.memory.lazy.placing import Outcome, alive, wake_all
from runtime.memory.lazy.spaces import Area, Space
from runtime.memory.lazy.state import State
from runtime.memory.lazy.twin import Succession

# When a process changes its mappings, or a page cannot be filled yet.
_PAUSE_MS = 1
_IDLE_MS = 250
_SHORT_S = 0.01
_MANY = 64


class Aborted(Exception):
    """Whoever owns the server has called it off."""


class Server:
    """Made anew by each process that serves, from the shared memory alone."""

    def __init__(
        self,
        state: State,
        pages: Pages,
        succession: Succession,
        *,
        listener_fd: int,
        orders_fd: int,
        owner_fd: int,
        discard: bool,
    ) -> None:
        self._state, self._pages, self._succession = state, pages, succession
        self._words = state.words
        self._table = state.load()
        self._filling = Filling(state, pages, discard=discard)
        self._filling.finished = self._table.finished
        self._fillers: dict[int, Filler] = {}
        self._listener_fd, self._orders_fd, self._owner_fd = listener_fd, orders_fd, owner_fd
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._watched_pages: dict[int, int] = {}
        self._resting = False

    def run(self) -> None:
        """Serve until every page is there. Raises what makes that impossible."""
        self._watch(self._orders_fd, self._ordered)
        self._watch(self._succession.twin_fd, self._twin_died)
        self._watch(self._owner_fd, self._owner_ended)
        self._resume()
        self._words[W_STATUS] = SERVING
        while self._fillers or not self._table.finished:
            self._watch_pages()
            self._serve_once()
            self._pages.patience()
        self._pages.complete()

    # ---- where a killed server has left off

    def _resume(self) -> None:
        kind, fd, done = self._state.logged()
        for space in list(self._table.spaces):
            if space.uffd >= 0 and _is_userfaultfd(space.uffd):
                self._adopt(space)
            elif space.uffd >= 0:
                # Closed, and not written down any more: its number may be another's by now.
                self._forget(space, done=done)
        self._pages.refresh()
        self._pages.resume()
        connection = self._words[W_CONNECTION] or max(protocol.accepted(), 0)
        if kind == FROM_CRIU:
            protocol.take(self._state, self._table)
            self._received()
        elif kind == FROM_UFFD and fd in self._fillers:
            self._process(self._fillers[fd].space, done)
        if connection:
            self._connected(connection)
        elif not self._table.finished:
            self._watch(self._listener_fd, self._accept)
        for uffd in self._fillers:
            # Questions that were read and not answered.
            wake_all(uffd)

    def _adopt(self, space: Space) -> None:
        self._fillers[space.uffd] = Filler(
            space, self._state.hot_runs(space), streaming=self._pages.streaming
        )
        self._filling.discard &= not space.forked
        self._watch(space.uffd, lambda: self._read_events(space))

    # ---- the loop

    def _serve_once(self) -> None:
        ready = self._poll.poll(self._patience())
        for fd, _ in ready:
            if fd in self._handlers:
                self._handlers[fd]()
        for filler in list(self._fillers.values()):
            for page in list(filler.waiting):
                del filler.waiting[page]
                self._answer(filler, page)
            if filler.gone:
                self._drop(filler.space)
        if not ready:
            self._resting = False
            if all(filler.idle for filler in self._fillers.values()):
                self._look_for_dead()
            self._fill_some()

    def _patience(self) -> int:
        if self._held:
            return _IDLE_MS
        if any(filler.waiting for filler in self._fillers.values()) or self._resting:
            return _PAUSE_MS
        if any(filler.has_near for filler in self._fillers.values()):
            return 0
        busy = any(not filler.idle for filler in self._fillers.values())
        return 0 if busy and self._may_fill() else _IDLE_MS

    def _may_fill(self) -> bool:
        return self._table.finished or bool(self._words[W_ORDERS] & ORDER_FILL)

    @property
    def _held(self) -> bool:
        return bool(self._words[W_ORDERS] & ORDER_HOLD)

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        if fd >= 0:
            self._poll.register(fd, select.POLLIN)
            self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None):
            self._poll.unregister(fd)

    def _watch_pages(self) -> None:
        wanted = dict(self._pages.descriptors())
        for fd in self._watched_pages.keys() - wanted.keys():
            self._unwatch(fd)
        for fd, events in wanted.items():
            if self._watched_pages.get(fd) != events or fd not in self._handlers:
                self._poll.register(fd, events)
                self._handlers[fd] = self._pages_ready
        self._watched_pages = wanted

    def _pages_ready(self) -> None:
        arrived = self._pages.arrived()
        self._watch_pages()  # a stream may have ended: now, before its number is another's
        for space, start, end in arrived:
            for filler in self._fillers.values():
                if filler.space.source == space:
                    filler.arrived(start, end)

    def _ordered(self) -> None:
        os.read(self._orders_fd, 8)
        if self._words[W_ORDERS] & ORDER_ABORT:
            raise Aborted(self._state.said() or "called off")
        if not self._held:
            for filler in self._fillers.values():
                filler.retry()

    def _owner_ended(self) -> None:
        self._unwatch(self._owner_fd)
        if not self._words[W_CONNECTION] and not self._table.finished:
            raise Aborted("its owner has ended before criu came")

    def _twin_died(self) -> None:
        self._unwatch(self._succession.twin_fd)
        self._succession.renew()
        self._watch(self._succession.twin_fd, self._twin_died)

    # ---- criu

    def _accept(self) -> None:
        fd = protocol.accept(self._listener_fd)
        self._table = self._state.load()  # as its owner has filled it in
        self._unwatch(self._listener_fd)
        self._connected(fd)

    def _connected(self, fd: int) -> None:
        self._words[W_CONNECTION] = fd
        self._watch(fd, self._receive)

    def _receive(self) -> None:
        self._pages.refresh()
        connection = self._words[W_CONNECTION]
        if protocol.receive(self._state, self._table, connection):
            protocol.take(self._state, self._table)
            self._received()
        elif self._table.finished:
            self._unwatch(connection)
        else:
            raise protocol.ProtocolError("criu has ended before the restore was complete")

    def _received(self) -> None:
        self._filling.finished = self._table.finished
        for filler in self._fillers.values():
            filler.idle = False
        for space in self._table.spaces:
            if space.uffd >= 0 and space.uffd not in self._fillers:
                self._adopt(space)

    # ---- events

    def _read_events(self, space: Space) -> None:
        started = time.perf_counter_ns()
        at = self._state.begin(FROM_UFFD, space.uffd) + LOG_EVENTS
        slots = memoryview(self._state.memory)[at : at + EVENTS * EVENT_BYTES]
        try:
            os.readv(space.uffd, [slots])
        except BlockingIOError:  # another task has asked and been answered
            return
        faults = self._words[W_FAULTS]
        self._process(space, 0)
        if self._words[W_FAULTS] > faults:
            self._words[W_FAULT_NS] += time.perf_counter_ns() - started

    def _process(self, space: Space, done: int) -> None:
        """Deal with the events in the log, from number *done* on."""
        at = self._state.log_at() + LOG_EVENTS
        data = bytes(self._state.memory[at : at + EVENTS * EVENT_BYTES])
        count = next((n for n in range(EVENTS) if not data[n * EVENT_BYTES]), EVENTS)
        for number, event in enumerate(
            userfaultfd.events(data[done * EVENT_BYTES : count * EVENT_BYTES]), done + 1
        ):
            self._apply(space, event, number)
        self._state.finish_log()

    def _apply(self, space: Space, event: userfaultfd.Event, number: int) -> None:
        if isinstance(event, userfaultfd.Pagefault):
            self._words[W_FAULTS] += 1
            filler = self._fillers[space.uffd]
            filler.fault(page_of(event.address))
            self._answer(filler, page_of(event.address))
            return
        self._words[W_EVENTS] += 1
        if isinstance(event, userfaultfd.Fork):
            child = self._state.fork(space, event.fd, self._table)
            self._table.spaces.append(child)
            self._state.save(self._table, done=number)
            self._words[W_TOTAL] += child.left()
            self._adopt(child)
            if not len(self._fillers) % _MANY:
                self._look_for_dead()
        elif isinstance(event, userfaultfd.Remap):
            space.areas = space.remapped(event.old, event.new, event.size)
            self._state.save(self._table, done=number)
            for area in space.areas:
                if event.new <= area.start < event.new + event.size:
                    self._fillers[space.uffd].again(area, area.start, area.end)
        else:
            space.forget(event.start, event.end)

    def _look_for_dead(self) -> None:
        """A process that ends says nothing; one that does nothing but fork would fill our table."""
        for filler in self._fillers.values():
            filler.gone |= not alive(filler.space.uffd)

    # ---- pages

    def _answer(self, filler: Filler, page: int) -> None:
        if self._held:
            filler.absent[page] = None
            return
        outcome = self._filling.answer(filler.space, page)
        if outcome is Outcome.ABSENT:
            filler.absent[page] = None
        if outcome in (Outcome.CHANGING, Outcome.SHORT):
            filler.waiting[page] = None
            if outcome is Outcome.SHORT:
                time.sleep(_SHORT_S)
        filler.gone |= outcome is Outcome.GONE

    def _fill_some(self) -> None:
        """One piece: where somebody has asked, then of what was restored, then of what forked."""
        if self._held:
            return
        fillers = sorted(self._fillers.values(), key=_forked)
        if any(self._fill_near(filler) for filler in fillers) or not self._may_fill():
            return
        for filler in fillers:
            run = filler.next()
            if run is not None:
                if self._fill(filler, *run):
                    return
                self._resting = True
            elif self._table.finished and filler.complete():
                self._drop(filler.space)

    def _fill_near(self, filler: Filler) -> bool:
        run = filler.next_near()
        if run is None:
            return False
        if not self._fill(filler, *run, urgent=True):
            filler.pass_near()
        return True

    def _fill(
        self, filler: Filler, area: Area, start: int, end: int, *, urgent: bool = False
    ) -> bool:
        """Fill a run as far as it can be; False when that has to wait for something else."""
        outcome = self._filling.fill(filler.space, area, start, end, urgent=urgent)
        if outcome is Outcome.SHORT:
            time.sleep(_SHORT_S)
        filler.gone |= outcome is Outcome.GONE
        if outcome not in (Outcome.DONE, Outcome.ABSENT):
            filler.again(area, start, end)
        return outcome not in (Outcome.UNMAPPED, Outcome.ABSENT)

    def _drop(self, space: Space) -> None:
        """All of it is there, or it has ended."""
        self._unwatch(space.uffd)
        del self._fillers[space.uffd]
        # Closed first: a descriptor that is open and in no table would be served by nobody.
        os.close(space.uffd)
        self._forget(space)

    def _forget(self, space: Space, *, done: int | None = None) -> None:
        self._state.release(space)
        if space.forked:
            self._table.spaces.remove(space)
        else:
            # To be known still: should a child of it have to be killed, it is found by its parent.
            space.uffd, space.areas = -1, []
        self._state.save(self._table, done=done)


def _forked(filler: Filler) -> bool:
    return filler.space.forked


def _is_userfaultfd(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[userfaultfd]"
    except FileNotFoundError:
        return False
