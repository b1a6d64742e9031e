"""What a migration did and how long each part took: phases as they pass, then the report."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from criu_rpc.logger import Logger
from migrator.messages import Filled

logger = Logger(__name__)

STOP_VARIABLE = "MIGRATOR_STOP_AT"


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the migration; times in ms, start counted from the beginning of the command."""

    name: str
    start_ms: float
    duration_ms: float
    host: str = "source"
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """One copy round: what was sent in it, and what had been written at its end."""

    number: int
    pages: int
    bytes: int
    seconds: float
    dirty_pages: int
    why: str


@dataclass(frozen=True, slots=True)
class Memory:
    """How the memory moved, page by page.

    tracker: how writes were noticed, "none" in a post-copy; stop_us: the longest that a process was
    stopped for it; bytes: on the wire, for data_pages whole, and zero_pages and same_pages by name;
    filled: how the pages came into the container, None: nobody knows.
    """

    tracker: str
    stop_us: int
    rounds: list[Round]
    bytes: int
    data_pages: int
    zero_pages: int
    same_pages: int
    filled: Filled | None


@dataclass(frozen=True, slots=True)
class Report:
    """A finished migration; downtime_ms is from frozen_at_ms, CRIU's word that it freezes, to
    "running".

    cpu_s, max_rss_bytes: of this process and those it waited for.
    """

    container: str
    destination: str
    outcome: str
    mode: str
    frozen_at_ms: float
    downtime_ms: float
    total_ms: float
    image_bytes: int
    rootfs_bytes: int
    phases: list[Phase]
    memory: Memory | None = None
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """All that went over the wire to be kept."""
        return self.image_bytes + self.rootfs_bytes + (self.memory.bytes if self.memory else 0)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, times rounded to 0.01 ms."""
        data = {**asdict(self), "bytes": self.bytes}
        for phase in data["phases"]:
            phase.update({key: round(phase[key], 2) for key in ("start_ms", "duration_ms")})
        return data | {
            key: round(data[key], 2) for key in ("frozen_at_ms", "downtime_ms", "total_ms")
        }


def used() -> dict[str, Any]:
    """What this process and those it has waited for took, as Report has it."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usage = [resource.getrusage(who) for who in whose]
    return {
        "cpu_s": sum(each.ru_utime + each.ru_stime for each in usage),
        "max_rss_bytes": max(each.ru_maxrss for each in usage) * 1024,
    }


Observer = Callable[[str, str, float], None]


class Recorder:
    """Collects phases; tells *observer* (event, phase, ms) at "begin" and "end" of each.

    Named in $MIGRATOR_STOP_AT, a phase begins with SIGSTOP to this very process: fault tests kill
    there.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.phases: list[Phase] = []
        self.current = "starting"
        self.frozen_since_ms: float | None = None
        self._observer = observer
        self._zero = time.monotonic()
        self._stop_at = os.environ.get(STOP_VARIABLE)

    def now_ms(self) -> float:
        return (time.monotonic() - self._zero) * 1000

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part; it is recorded also when it fails."""
        before, self.current = self.current, name
        start = self.now_ms()
        if self._observer is not None:
            self._observer("begin", name, start)
        if name == self._stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            yield
            self.current = before
        finally:
            self.add(name, start, self.now_ms() - start)

    def add(self, name: str, start_ms: float, duration_ms: float, *, host: str = "source") -> None:
        """Record a part that was timed elsewhere."""
        frozen = self.frozen_since_ms is not None and start_ms + duration_ms > self.frozen_since_ms
        self.phases.append(Phase(name, start_ms, duration_ms, host, frozen))
        logger.info("phase %s took %.1f ms", name, duration_ms)
        if self._observer is not None:
            self._observer("end", name, duration_ms)
