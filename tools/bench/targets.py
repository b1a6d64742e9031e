"""What is to be reached, and whether it was. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from results import Figure, Sample, median
from rich import box
from rich.table import Table

LINK = "1gbit"


@dataclass(frozen=True, slots=True)
class Target:
    """One of them; measured is None where its workload was not run, or not to the end."""

    what: str
    limit: float
    unit: str
    measured: float | None

    @property
    def reached(self) -> bool | None:
        return None if self.measured is None else self.measured < self.limit

    def as_json(self) -> dict[str, Any]:
        figures = {"limit": self.limit, "unit": self.unit, "measured": self.measured}
        return {"what": self.what, **figures, "reached": self.reached}


def targets(samples: Sequence[Sample]) -> list[Target]:
    """All of them, at 1 Gbit/s, in mode auto unless it says otherwise."""

    def auto(workload: str, figure: Figure) -> float | None:
        return median(samples, workload, LINK, "auto", figure)

    def silence(workload: str, mode: str = "auto") -> float | None:
        return median(samples, workload, LINK, mode, lambda s: s.silence_ms)

    def tracked(figure: Figure) -> float | None:
        return median(samples, "tracked", "-", "tracker", figure)

    of_1_gib, by_hand = silence("redis-1024"), silence("redis-1024", "lazy-pages")
    more = _both(silence("redis-4096"), of_1_gib, lambda four, one: (four - one) / 3)
    return [
        Target("Redis 1 GiB: silence", 250, "ms", of_1_gib),
        Target(
            "Redis 1 GiB: silence, as a part of post-copy by hand", 0.25, "",
            _both(of_1_gib, by_hand, lambda ours, theirs: ours / theirs),
        ),
        Target("Redis 256 MiB: silence", 200, "ms", silence("redis-256")),
        Target("idle: silence", 100, "ms", silence("idle")),
        Target("Redis: further silence for each further GiB", 90, "ms", more),
        Target(
            "half-zero: bytes on the wire / (not zero + rewritten)", 1.15, "",
            auto("half-zero", _wire_ratio),
        ),
        Target("tracked, 1 GiB, 20 MB/s written: slowed", 3, "%", tracked(_percent)),
        Target("tracked, 1 GiB: a stop", 1, "ms", tracked(_stop_ms)),
        Target("tracked, 1 GiB: a scan", 10, "ms", tracked(_scan_ms)),
    ]  # fmt: skip


def _both(
    first: float | None, second: float | None, join: Callable[[float, float], float]
) -> float | None:
    return None if first is None or second is None else join(first, second)


def _wire_ratio(sample: Sample) -> float | None:
    if sample.not_zero_bytes is None or sample.wire_bytes is None:
        return None
    return sample.wire_bytes / (sample.not_zero_bytes + (sample.rewritten_bytes or 0))


def _percent(sample: Sample) -> float | None:
    return None if sample.slowed is None else sample.slowed * 100


def _stop_ms(sample: Sample) -> float | None:
    return None if sample.stop_us is None else sample.stop_us / 1000


def _scan_ms(sample: Sample) -> float | None:
    return None if sample.scan_us is None else sample.scan_us / 1000


def table(found: Sequence[Target]) -> Table:
    """Each with its limit, what was measured, and the verdict."""
    drawn = Table(title="To reach", box=box.SIMPLE, title_justify="left", pad_edge=False)
    drawn.add_column("what, at 1 Gbit/s in mode auto")
    for heading in ("below", "measured"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("")
    for target in found:
        verdict = {True: "reached", False: "NOT REACHED", None: "not measured"}[target.reached]
        measured = "-" if target.measured is None else f"{target.measured:.3g} {target.unit}"
        drawn.add_row(target.what, f"{target.limit:g} {target.unit}", measured, verdict)
    return drawn
