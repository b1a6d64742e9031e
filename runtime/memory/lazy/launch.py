"""The owner's side of a lazy-pages server: start it, tell it what is missing, see how far it is.

    with LazyPages.start(work_dir, StoreSource(directory), expected={1: 7}) as lazy:
        lazy.load({7: runs})            # before criu connects
        criu.restore(lazy_pages=True)
        lazy.wait()

The server outlives its owner, and any one of its two processes the other.
"""

from __future__ import annotations

import marshal
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from runtime.cgroups.detect import move_to_roots
from runtime.errors import ContainerError
from runtime.interpreter import command
from runtime.memory.lazy import main, protocol, remote_pages
from runtime.memory.lazy.layout import (
    DONE,
    FAILED,
    ORDER_ABORT,
    ORDER_FILL,
    ORDER_HOLD,
    SERVING,
    STARTING,
    W_EVENTS,
    W_FAULT_NS,
    W_FAULTS,
    W_FILLED,
    W_ORDERS,
    W_SERVER,
    W_SHORT,
    W_STATUS,
    W_TAKEOVERS,
    W_TOTAL,
    W_TWIN,
)
from runtime.memory.lazy.state import State
from runtime.socket_path import connect

Run = tuple[int, int]

_POLL_S = 0.005


class LazyPagesFailed(ContainerError):
    """The pages of a restored container cannot be served; its processes have been killed."""

    def __init__(self, why: str) -> None:
        super().__init__(f"lazy pages: {why}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a server is. Pages are of the host's page size."""

    status: str
    total_pages: int
    filled_pages: int
    faults: int
    fault_us: float  # mean, from reading a batch of questions to its last answer
    events: int
    takeovers: int
    short_of_memory: int
    said: str


_STATUS = {STARTING: "starting", SERVING: "serving", DONE: "done", FAILED: "failed"}


class LazyPages:
    """Context manager: at its end a server that still serves is left to finish by itself."""

    def __init__(
        self,
        state: State,
        orders_fd: int,
        life_fd: int,
        own_life_fd: int,
        pid: int,
        cache_fd: int | None,
    ) -> None:
        self._state = state
        self._words = state.words
        self._orders_fd, self._life_fd, self._pid = orders_fd, life_fd, pid
        self._cache_fd = cache_fd
        self._own_life_fd = own_life_fd

    @classmethod
    def start(
        cls,
        work_dir: Path,
        pages: Mapping[str, Any],
        *,
        expected: Mapping[int, int] | None = None,
        discard: bool = False,
        hold: bool = False,
    ) -> Self:
        """Listen where a criu in *work_dir* connects to, and start the server behind it.

        pages: what a source says in its `plan`; expected: pid, as CRIU sends it -> space.
        discard: give pages back to the source as they are served; hold: give none before `release`,
        for they are not final: who asks waits. Raises OSError.
        """
        with ExitStack() as stack:
            state = State.create(expected or {})
            stack.callback(os.close, state.fd)
            state.words[W_ORDERS] = ORDER_HOLD if hold else 0
            plan_fd = _memfd(marshal.dumps({**pages, "discard": discard}))
            stack.callback(os.close, plan_fd)
            listener_fd = protocol.listen(work_dir)
            stack.callback(os.close, listener_fd)
            orders_fd = os.eventfd(0)
            life_fd, held_fd = os.pipe()
            stack.callback(os.close, held_fd)
            owner_fd, own_life_fd = os.pipe()
            stack.callback(os.close, owner_fd)
            given = [state.fd, plan_fd, listener_fd, orders_fd, held_fd, owner_fd]
            cache_fd = None
            if pages["kind"] == "remote":
                cache_fd = os.memfd_create("migrator-lazy-cache", os.MFD_CLOEXEC)
                pages_fd = protocol.listen(work_dir, remote_pages.NAME)
                stack.callback(os.close, pages_fd)
                given += [cache_fd, pages_fd]
            with ExitStack() as undo:
                for fd in (orders_fd, life_fd, own_life_fd):
                    undo.callback(os.close, fd)
                pid = _spawn(given)
                move_to_roots(pid)
                undo.pop_all()
            return cls(state, orders_fd, life_fd, own_life_fd, pid, cache_fd)

    def load(
        self,
        lazy: Mapping[int, Sequence[Run]],
        hot: Mapping[int, Sequence[Run]] | None = None,
        *,
        expected: Mapping[int, int] | None = None,
    ) -> None:
        """Say which pages of each space are missing, hot ones in order; before criu connects.

        expected: as for `start`, where it was not known then.
        """
        if expected is not None:
            self._state.expect(expected)
        table = self._state.load()
        for space in table.spaces:
            runs = lazy.get(space.source, ())
            self._state.add_runs(space, table, runs, (hot or {}).get(space.source, ()))
        if self._cache_fd is not None:
            # First: a server that has a stream already maps what it is told of.
            size = sum(area.end - area.start for space in table.spaces for area in space.areas)
            os.ftruncate(self._cache_fd, size)
            self._state.add_origins(table)
        self._state.save(table)

    @property
    def pids(self) -> tuple[int, int]:
        """The server and its twin, 0 while there is none; they change when one is killed."""
        return self._words[W_SERVER], self._words[W_TWIN]

    @property
    def progress(self) -> Progress:
        """How far it is."""
        words = self._words
        return Progress(
            status=_STATUS[words[W_STATUS]],
            total_pages=words[W_TOTAL],
            filled_pages=words[W_FILLED],
            faults=words[W_FAULTS],
            fault_us=words[W_FAULT_NS] / max(words[W_FAULTS], 1) / 1000,
            events=words[W_EVENTS],
            takeovers=words[W_TAKEOVERS],
            short_of_memory=words[W_SHORT],
            said=self._state.said(),
        )

    def release(self) -> None:
        """The pages are what they are to be: whoever waits is given his."""
        self._words[W_ORDERS] &= ~ORDER_HOLD
        os.eventfd_write(self._orders_fd, 1)

    def fill(self, timeout_s: float | None = None) -> bool:
        """Fill all that is missing, before the container runs if need be; False: not in time.

        To be called when criu holds the restore at `post-restore` (all mappings are in place then)
        or later. Raises LazyPagesFailed.
        """
        self._order(ORDER_FILL)
        return self._until(lambda: self.missing_pages() == 0, timeout_s)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the container runs and has all of its pages; False: not in time.

        Raises LazyPagesFailed.
        """
        return self._until(lambda: self._words[W_STATUS] == DONE, timeout_s)

    def ensure_it_serves(self) -> None:
        """Raise LazyPagesFailed when nobody serves any more, and not all is there."""
        if self._words[W_STATUS] != DONE and self._ended(0):
            raise LazyPagesFailed(self._why())

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have *call* called, in another thread, should both processes end before all is there.

        As long as this process lives, after `close` too. Who failed has killed what it served;
        where both were killed nobody has.
        """
        life_fd = os.dup(self._life_fd)

        def watch() -> None:
            try:
                _ready(life_fd, None)
            finally:
                os.close(life_fd)
            if self._words[W_STATUS] != DONE:
                call()

        threading.Thread(target=watch, name="page servers", daemon=True).start()

    def abort(self, why: str = "called off by its owner") -> None:
        """Kill the processes that are served, and end. Returns when all have ended."""
        self._state.say(why)
        self._order(ORDER_ABORT)
        self._ended(None)

    def missing_pages(self) -> int:
        """How many pages are still to be filled."""
        return sum(space.left() for space in self._state.look().spaces)

    def close(self) -> None:
        """Let go of the server; it serves on, or ends when no criu has come yet."""
        for fd in (self._orders_fd, self._life_fd, self._own_life_fd, self._cache_fd):
            if fd is not None:
                os.close(fd)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _order(self, order: int) -> None:
        self._words[W_ORDERS] |= order
        os.eventfd_write(self._orders_fd, 1)

    def _until(self, done: Any, timeout_s: float | None) -> bool:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not done():
            if self._ended(_POLL_S) and not done():
                raise LazyPagesFailed(self._why())
            if deadline is not None and time.monotonic() > deadline:
                return False
        return True

    def _ended(self, timeout_s: float | None) -> bool:
        """Whether both processes have ended: nobody holds the other end of the pipe."""
        return _ready(self._life_fd, timeout_s)

    def _why(self) -> str:
        if self._words[W_STATUS] == FAILED:
            return self._state.said()
        return "both processes that served them were killed: memory of the container is lost"


def _ready(fd: int, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def is_served(work_dir: Path) -> bool:
    """Whether a server in *work_dir* waits for somebody to connect it to its source."""
    try:
        connect(work_dir / remote_pages.NAME).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    return True


def _memfd(data: bytes) -> int:
    fd = os.memfd_create("migrator-lazy-plan", os.MFD_CLOEXEC)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _spawn(given: list[int]) -> int:
    """Start the interpreter with the descriptors *given* from main.STATE_FD on."""
    first = main.STATE_FD
    # Above all that they are to become, or one would be closed for another.
    with ExitStack() as stack:
        high = []
        for fd in given:
            high.append(_duplicated(fd, 64))
            stack.callback(os.close, high[-1])
        actions: list[Any] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ]
        actions += [(os.POSIX_SPAWN_DUP2, fd, first + at) for at, fd in enumerate(high)]
        argv = command("runtime.memory.lazy.main")
        return os.posix_spawn(argv[0], argv, {}, file_actions=actions, setsid=True, setsigmask=())


def _duplicated(fd: int, lowest: int) -> int:
    import fcntl  # noqa: PLC0415

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
