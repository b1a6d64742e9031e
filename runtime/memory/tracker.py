"""The write tracker: which pages of a container were written since they were last looked at.

    with Tracker.attach(container.processes) as tracker:
        scan = tracker.scan()           # everything that is there
        copy(tracker.spaces, scan.written)
        scan = tracker.scan()           # what was written since
        ...
        scan = tracker.final()          # under the freeze: the rest

Three ways of one interface: asynchronous write-protection (async_wp.py), soft-dirty bits
(soft_dirty.py), hashes of the contents (hashes.py). What is not provably clean is dirty: a page is
reported too often, never too seldom. Order is what makes it right: a scan protects, *then* the
pages are read; what is written while it is being read is reported by the next scan.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from criu_rpc.logger import Logger
from runtime.memory import async_wp, hashes, soft_dirty
from runtime.memory.direct_io import direct_io, has_userfaultfd
from runtime.memory.errors import TrackingFailed, TrackingUnavailable
from runtime.memory.injection import tracer_of
from runtime.memory.runs import Run, normalized
from runtime.memory.spaces import Space, identity, parent, shares_memory
from runtime.threads import in_a_thread

logger = Logger(__name__)

# What may be otherwise the next time: no thread stopped in time, no descriptor left in the target.
_PASSING = (errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class _Way(NamedTuple):
    """open_space: the space of a pid, and how long that was stopped (us); or OSError."""

    open_space: Callable[[int], tuple[Space, int]]
    unavailable: Callable[[], str | None]


_WAYS = {
    "userfaultfd": _Way(async_wp.open_space, async_wp.unavailable),
    "soft-dirty": _Way(soft_dirty.open_space, soft_dirty.unavailable),
    "hashes": _Way(hashes.open_space, lambda: None),
}


#: for so long a device may take for what it was asked, errors and all
DEVICE_S = 60.0


@dataclass(frozen=True, slots=True)
class Scan:
    """What one round found.

    written: for each space runs of pages that are there and may differ from what an earlier round
    reported; only private memory of no file, not locked (what CRIU calls lazy). gone, fresh: ids of
    spaces that have ended since the last round, or begun. stop_us: the longest time that any one
    process was stopped. scan_us: all of it.
    """

    written: dict[int, list[Run]]
    gone: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)
    stop_us: int = 0
    scan_us: int = 0


class Tracker:
    """Follows the processes of one container; a context manager. Not to be shared by threads.

    However it ends, also by our death, the processes are left as they were.
    """

    def __init__(self, processes: Callable[[], list[int]], kind: str) -> None:
        self.kind = kind
        self.spaces: dict[int, Space] = {}
        self._processes = processes
        self._way = _WAYS[kind]
        self._last_id = 0
        self._fresh: list[int] = []
        self._stop_us = 0

    @classmethod
    def attach(cls, processes: Callable[[], list[int]], *, kind: str | None = None) -> Tracker:
        """Begin to track; *processes* is asked for the pids (as we see them) in every round.

        kind: "userfaultfd", "soft-dirty" or "hashes"; None takes the first that works here. Raises
        TrackingFailed, naming process and remedy; the processes are then untouched.
        """
        tracker = cls(processes, chosen(kind))
        try:
            tracker._follow(processes())
        except BaseException:
            tracker.close()
            raise
        return tracker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scan(self) -> Scan:
        """One round, while the container runs: each later one tells what was written since.

        Raises TrackingFailed when a process that is new is traced by somebody.
        """
        return self._round(final=False)

    def final(self) -> Scan:
        """The last round, with all tasks stopped by somebody else; nothing is protected any more.

        Processes that are new since the last round are reported whole.
        """
        return self._round(final=True)

    def close(self) -> None:
        """Stop tracking: no protection, no descriptor is left. May be called again."""
        for space in self.spaces.values():
            space.close()
        self.spaces.clear()

    def _round(self, *, final: bool) -> Scan:
        began = time.perf_counter_ns()
        pids = self._processes()
        gone = self._drop(set(pids), final=final)
        self._follow(pids, final=final)
        written = {}
        for number, space in self.spaces.items():
            found = space.written(space.own(space.text()), final=final)
            written[number] = found
            if direct_io(space.pid):
                written[number] = _with_in_flight(space, found, final=final)
            self._stop_us = max(self._stop_us, getattr(space, "stop_us", 0))
        fresh, self._fresh = self._fresh, []
        stop_us, self._stop_us = self._stop_us, 0
        scan_us = (time.perf_counter_ns() - began) // 1000
        return Scan(written, gone, fresh, stop_us, scan_us)

    def _drop(self, pids: set[int], *, final: bool) -> list[int]:
        """Let go what has ended, executed another program, or is worth another attempt."""
        gone = [
            number
            for number, space in self.spaces.items()
            if space.pid not in pids or (space.passing and not final) or _ended(space)
        ]
        for number in gone:
            self.spaces.pop(number).close()
        return gone

    def _follow(self, pids: list[int], *, final: bool = False) -> None:
        """Make spaces of the processes that have none."""
        known = {space.pid for space in self.spaces.values()}
        new = [pid for pid in pids if pid not in known and not self._is_vforked(pid)]
        if not new:
            return
        if final:
            self._add_all(new, lambda pid: (Space(pid), 0))
        else:
            in_a_thread(lambda: self._add_all(new, self._open), name="tracer")

    def _add_all(self, pids: list[int], opened: Callable[[int], tuple[Space, int]]) -> None:
        for pid in pids:
            # Ended meanwhile, or a zombie.
            with suppress(ProcessLookupError, FileNotFoundError):
                space, stop_us = opened(pid)
                self._last_id += 1
                space.id = self._last_id
                self.spaces[space.id] = space
                self._fresh.append(space.id)
                self._stop_us = max(self._stop_us, stop_us)

    def _open(self, pid: int) -> tuple[Space, int]:
        if tracer := tracer_of(pid):
            raise TrackingFailed(
                pid, f"it is traced by {_named(tracer)}, which has to let go first"
            )
        if has_userfaultfd(pid):
            return self._untracked(pid, "it uses userfaultfd itself"), 0
        try:
            return self._way.open_space(pid)
        except (ProcessLookupError, FileNotFoundError):
            raise
        except OSError as exc:
            space = self._untracked(pid, f"{exc.strerror} ({exc.filename or pid})")
            space.passing = exc.errno in _PASSING
            return space, 0

    def _untracked(self, pid: int, why: str) -> Space:
        space = Space(pid)
        space.untracked = why
        logger.info("process %d counts as written all over: %s", pid, why)
        return space

    def _is_vforked(self, pid: int) -> bool:
        """Whether it still has the memory of its parent, which has a space."""
        with suppress(OSError):
            above = parent(pid)
            return any(s.pid == above for s in self.spaces.values()) and shares_memory(pid, above)
        return False


def _with_in_flight(space: Space, found: list[Run], *, final: bool) -> list[Run]:
    """What a device may still have been filling when it was read is read again at the end."""
    now = time.monotonic()
    space.in_flight = [each for each in space.in_flight if now - each[0] < DEVICE_S]
    if not final:
        space.in_flight.append((now, found))
        return found
    return normalized(run for _, runs in [*space.in_flight, (now, found)] for run in runs)


def chosen(kind: str | None) -> str:
    """The way to track by: *kind* if it works here, for None the first one that does."""
    if kind is not None:
        if kind not in _WAYS:
            raise ValueError(f"no way to track is called {kind!r}: {', '.join(_WAYS)}")
        if why := _WAYS[kind].unavailable():
            raise TrackingUnavailable(kind, why)
        return kind
    return next(name for name, way in _WAYS.items() if not way.unavailable())


def _ended(space: Space) -> bool:
    try:
        return not space.exists() or identity(space.pid) != space.identity
    except OSError:
        return True


def _named(pid: int) -> str:
    try:
        return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text(errors='replace').strip()})"
    except OSError:
        return f"process {pid}"
