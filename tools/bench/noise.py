"""What others took of this machine's CPUs: the host of a virtual machine has other guests too.

proc_stat(5): "steal" is time in which a CPU of ours had work to do and was not let run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from results import Sample

#: how often something is measured at most for each quiet sample that is wanted of it
TRIES = 4

Kind = TypeVar("Kind", bound=Hashable)


def by_turns(
    kinds: Sequence[Kind], runs: int, measure: Callable[[Kind], Sample], most: float | None
) -> Iterator[Sample]:
    """So many samples of each of *kinds*, which take turns, with what was stolen meanwhile.

    most: the largest part of the CPU time that may have been stolen. A sample with more is noisy:
    it counts for nothing, and is made again.
    """
    wanted = dict.fromkeys(kinds, runs)
    for _ in range(runs if most is None else runs * TRIES):
        for kind in kinds:
            if wanted[kind]:
                sample = _watched(lambda kind=kind: measure(kind), most)  # type: ignore[misc]
                wanted[kind] -= not sample.noisy
                yield sample


def _watched(measure: Callable[[], Sample], most: float | None) -> Sample:
    before = _times()
    sample = measure()
    stolen, used = (after - was for after, was in zip(_times(), before, strict=True))
    part = stolen / max(1, stolen + used)
    return replace(sample, stolen=part, noisy=most is not None and part > most)


def _times() -> tuple[int, int]:
    """Stolen and used, in ticks, of all CPUs since they started."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _iowait, irq, softirq, stolen = map(int, line.split()[1:9])
    return stolen, user + nice + system + irq + softirq
