"""What other machines take of this one's CPUs, where it is a guest beside others.

Time that the host gives to others while a CPU of ours has work to do is counted (proc_stat(5),
"steal"). What is not: that a core is shared with the neighbour's hyperthread, or its clock lower.
That is seen by how long a fixed piece of work takes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from results import Sample

#: how often something is measured at most for each quiet sample that is wanted of it
TRIES = 4
PATIENCE_S = 60

Kind = TypeVar("Kind", bound=Hashable)


def by_turns(
    kinds: Sequence[Kind], runs: int, measure: Callable[[Kind], Sample], watch: Watch
) -> Iterator[Sample]:
    """So many samples of each of *kinds*, which take turns; what is noisy is made again."""
    wanted = dict.fromkeys(kinds, runs)
    for _ in range(runs * watch.tries):
        for kind in kinds:
            if wanted[kind]:
                sample = watch.over(lambda kind=kind: measure(kind))  # type: ignore[misc]
                wanted[kind] -= not sample.noisy
                yield sample


class Watch:
    """What this machine can do when it is left alone, as far as has been seen."""

    def __init__(self, most: float | None) -> None:
        """most: the largest part of the CPU time that others may have; None: any.

        The machine is waited for until it is as quiet as that, a minute at most. A sample in which
        it was not is noisy, and counts for nothing.
        """
        self.tries = 1 if most is None else TRIES
        self._most = most
        self._least_s = min(_piece_of_work_s() for _ in range(10))

    def over(self, measure: Callable[[], Sample]) -> Sample:
        """The sample, with what was taken of the CPUs while it was made."""
        slower = self._await_quiet()
        before = _times()
        sample = measure()
        stolen, used = (after - was for after, was in zip(_times(), before, strict=True))
        slower = max(slower, self._slower())
        part = stolen / max(1, stolen + used)
        noisy = self._is_noisy(max(part, slower))
        return replace(sample, stolen=part, slower=slower, noisy=noisy)

    def _await_quiet(self) -> float:
        until_s = time.monotonic() + PATIENCE_S
        while self._is_noisy(slower := self._slower()) and time.monotonic() < until_s:
            time.sleep(1)
        return slower

    def _is_noisy(self, part: float) -> bool:
        return self._most is not None and part > self._most

    def _slower(self) -> float:
        """By what part of its best the machine is slower now."""
        now_s = min(_piece_of_work_s() for _ in range(3))
        self._least_s = min(self._least_s, now_s)
        return now_s / self._least_s - 1


def _piece_of_work_s() -> float:
    """How long one takes on the slowest CPU, when all have theirs to do."""
    begin_s = time.perf_counter()
    pids = [_child() for _ in os.sched_getaffinity(0)]
    for pid in pids:
        os.waitpid(pid, 0)
    return time.perf_counter() - begin_s


def _child() -> int:
    if not (pid := os.fork()):
        sum(number * number for number in range(500_000))
        os._exit(0)
    return pid


def _times() -> tuple[int, int]:
    """Stolen and used, in ticks, of all CPUs since they started."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _iowait, irq, softirq, stolen = map(int, line.split()[1:9])
    return stolen, user + nice + system + irq + softirq
