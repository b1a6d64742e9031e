"""Figures of the benchmark, and their medians as a table. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.table import Table

_FIGURES = (
    "silence:\nmigrate",
    "\nby hand",
    "\nratio",
    "command:\nmigrate",
    "\nby hand",
    "frozen:\nmigrate",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One migration. silence_ms: as its client or the container saw it; problems: what was lost."""

    bandwidth: str
    workload: str
    mover: str
    silence_ms: float | None = None
    noise_ms: float | None = None
    downtime_ms: float | None = None
    total_ms: float | None = None
    size_bytes: int | None = None
    problems: Sequence[str] = field(default_factory=tuple)

    @classmethod
    def failed(cls, bandwidth: str, workload: str, mover: str, why: str) -> Sample:
        return cls(bandwidth, workload, mover, problems=(why,))

    def __str__(self) -> str:
        what = f"{self.workload}, {self.bandwidth}, {self.mover}: "
        if self.problems:
            return what + "; ".join(self.problems)
        return f"{what}silence {self.silence_ms:.1f} ms, total {self.total_ms:.1f} ms"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def table(samples: Sequence[Sample]) -> Table:
    """Medians: silence of both ways and their ratio, whole commands, migrate's frozen time."""
    drawn = Table(title="Medians, ms", box=box.SIMPLE, title_justify="left")
    for heading in ("workload", "bandwidth"):
        drawn.add_column(heading)
    for heading in _FIGURES:
        drawn.add_column(heading, justify="right")
    for workload, bandwidth in dict.fromkeys((s.workload, s.bandwidth) for s in samples):
        drawn.add_row(*_row(workload, bandwidth, samples))
    return drawn


def _row(workload: str, bandwidth: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    def medians(value: Callable[[Sample], float | None]) -> list[float | None]:
        return [_median(samples, (workload, bandwidth, m), value) for m in ("migrate", "by hand")]

    silence, total = medians(lambda s: s.silence_ms), medians(lambda s: s.total_ms)
    frozen = medians(lambda s: s.downtime_ms)[0]
    ratio = f"{silence[1] / silence[0]:.1f}x" if silence[0] and silence[1] else "-"
    return workload, bandwidth, *map(_text, silence), ratio, *map(_text, total), _text(frozen)


def _median(
    samples: Sequence[Sample], kind: tuple[str, str, str], value: Callable[[Sample], float | None]
) -> float | None:
    """Over the runs of one kind that lost nothing."""
    found = [
        figure
        for s in samples
        if (s.workload, s.bandwidth, s.mover) == kind and not s.problems
        if (figure := value(s)) is not None
    ]
    return statistics.median(found) if found else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
