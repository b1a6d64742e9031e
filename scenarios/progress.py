"""How far a process was from time to time, and what a migration did to its pace. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

PAGE_BYTES = 4096
#: A report counts from where migrator begins; its interpreter began a little earlier.
COMMAND_START_S = 0.5


class Progress(NamedTuple):
    """At a time (s, real-time clock): pages written so far, seconds of CPU taken so far."""

    at_s: float
    writes: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Pace:
    """Before the migration and while it was tracked.

    slowed: by how much of its pace, by the clock; slowed_cpu: of its pace per second of CPU that it
    got, so without what others on the machine took from it; rewritten_bytes: in the tracked time,
    pages written twice counted twice.
    """

    before_mb_s: float
    slowed: float
    slowed_cpu: float
    rewritten_bytes: int


def pace(progress: Sequence[Progress], report: Mapping[str, Any]) -> Pace | None:
    """What the progress shows beside the migration's report; None where nothing was tracked.

    The freeze is the longest time between two samples; it is where both clocks meet.
    """
    copied_ms = [p["start_ms"] for p in report.get("phases", ()) if p["name"] == "copy memory"]
    if len(progress) < 4 or not copied_ms:
        return None
    frozen_at = max(pairwise(progress), key=lambda pair: pair[1].at_s - pair[0].at_s)[0].at_s
    began_at = frozen_at - report["frozen_at_ms"] / 1000
    before = within(progress, 0, began_at - COMMAND_START_S)
    tracked = within(progress, began_at + min(copied_ms) / 1000, frozen_at)
    if len(before) < 2 or len(tracked) < 2:
        return None
    return Pace(
        before_mb_s=per_second(before) * PAGE_BYTES / 1e6,
        slowed=1 - per_second(tracked) / per_second(before),
        slowed_cpu=1 - per_cpu_second(tracked) / per_cpu_second(before),
        rewritten_bytes=(tracked[-1].writes - tracked[0].writes) * PAGE_BYTES,
    )


def within(progress: Sequence[Progress], since_s: float, until_s: float) -> list[Progress]:
    """The samples of a span of time."""
    return [p for p in progress if since_s <= p.at_s <= until_s]


def per_second(samples: Sequence[Progress]) -> float:
    """Pages written a second."""
    first, last = samples[0], samples[-1]
    return (last.writes - first.writes) / (last.at_s - first.at_s)


def per_cpu_second(samples: Sequence[Progress]) -> float:
    """Pages written for each second of CPU that it got."""
    first, last = samples[0], samples[-1]
    return (last.writes - first.writes) / max(last.cpu_s - first.cpu_s, 1e-9)
