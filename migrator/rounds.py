"""When to stop copying and freeze, how to slow a writer down, and which pages are hot (pure).

Nothing here reads a clock or a page: a round is told by its figures. Rounds follow each other
without a pause, since whatever time passes between them only dirties pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

from runtime.memory.contents import PAGE_SIZE
from runtime.memory.runs import Run, normalized

#: a bandwidth read off less is the latency's
TELLING_BYTES = 1 << 20
#: a round that leaves more than this of what it found has gained nothing
NO_GAIN = 0.9
#: while each round leaves less than this, one more is worth its time even under the target
STILL_HALVING = 0.5
#: what sending pages may take of the target before it counts as nothing
NEGLIGIBLE = 0.05
#: shares of its CPU that a writer is left, one after the other (QEMU's auto-converge: 80 % at
#: first, then 10 % less each time; migration/ram.c)
SHARES = (1.0, 0.5, 0.3, 0.1)
#: where more pages than that are written at once, all are as hot as each other
MAX_COUNTED = 1 << 18


@dataclass(frozen=True, slots=True)
class Round:
    """One round: scanned, sent, and scanned again at its end.

    bytes_sent, seconds: of the stream until all had arrived. dirty_pages: found at its end, to be
    sent next. pages_sent: with content, whether compressed or not. cpu_share: what the container
    was left while it ran.
    """

    bytes_sent: int
    seconds: float
    pages_sent: int
    dirty_pages: int
    cpu_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the rounds are to reach, and when they end all the same.

    fixed_ms: of the downtime, the part that no round makes shorter: CRIU's dump and restore.
    converge: slow the container down rather than give up.
    """

    downtime_ms: float
    fixed_ms: float
    max_rounds: int
    max_time_s: float
    converge: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether another round is made; `why` is a sentence for the report.

    cpu_share: what the container is left of its CPU in the next round; 1.0: all.
    """

    go_on: bool
    why: str
    predicted_downtime_ms: float
    cpu_share: float = 1.0


def decide(rounds: Sequence[Round], limits: Limits) -> Decision:
    """What follows after *rounds*, one at least."""
    last, speed = rounds[-1], bandwidth(rounds)
    left = last.dirty_pages * _bytes_a_page(rounds)
    pages_ms = left / speed * 1000
    predicted = limits.fixed_ms + pages_ms
    what = f"{_size(left)} are left, {pages_ms:.0f} ms at {_size(speed)}/s"
    share = _share(rounds) if limits.converge else 1.0

    def stop(why: str) -> Decision:
        return Decision(False, why, predicted, last.cpu_share)

    if predicted <= limits.downtime_ms and not _worth_another(rounds, pages_ms, limits):
        return stop(f"converged: {what}")
    if len(rounds) >= limits.max_rounds:
        return stop(f"stopped after {len(rounds)} rounds: {what}")
    if (passed := sum(round_.seconds for round_ in rounds)) >= limits.max_time_s:
        return stop(f"stopped after {passed:.1f} s: {what}")
    if _stalled(rounds) and share >= last.cpu_share:
        return stop(f"does not converge, it writes as fast as its pages are sent: {what}")
    return Decision(True, f"round {len(rounds) + 1}: {what}", predicted, share)


def bandwidth(rounds: Sequence[Round]) -> float:
    """Bytes per second of the last round that was long enough to tell, or the best of all."""
    for round_ in reversed(rounds):
        if round_.bytes_sent >= TELLING_BYTES and round_.seconds > 0:
            return round_.bytes_sent / round_.seconds
    return max(1.0, *(round_.bytes_sent / max(round_.seconds, 1e-6) for round_ in rounds), 1.0)


def _bytes_a_page(rounds: Sequence[Round]) -> float:
    """What a dirty page takes on the wire.

    Less than its size where it is compressed, or zeros, or what has been sent before; of the last
    two the first round, in which is what never changes, is no measure.
    """
    for index in reversed(range(len(rounds))):
        pages = _found_by(rounds, index)
        if rounds[index].bytes_sent >= TELLING_BYTES and pages:
            return min(rounds[index].bytes_sent / pages, PAGE_SIZE * 1.01)
    return float(PAGE_SIZE)


def _found_by(rounds: Sequence[Round], index: int) -> int:
    """The pages that a round had to send; of the first one, those with content."""
    return rounds[index - 1].dirty_pages if index else rounds[0].pages_sent


def _left_of(rounds: Sequence[Round], index: int) -> float:
    """Which part of what a round had to send was dirty again at its end."""
    return rounds[index].dirty_pages / max(_found_by(rounds, index), 1)


def _worth_another(rounds: Sequence[Round], pages_ms: float, limits: Limits) -> bool:
    """Under the target, a round costs little as long as each halves what is left."""
    room = len(rounds) < limits.max_rounds and sum(r.seconds for r in rounds) < limits.max_time_s
    halving = _left_of(rounds, len(rounds) - 1) <= STILL_HALVING
    return room and halving and pages_ms > NEGLIGIBLE * limits.downtime_ms


def _stalled(rounds: Sequence[Round]) -> bool:
    """Two rounds in succession, under the same share, gained nothing."""
    if len(rounds) < 3 or rounds[-2].cpu_share != rounds[-1].cpu_share:
        return False
    return all(_left_of(rounds, len(rounds) - back) > NO_GAIN for back in (1, 2))


def _share(rounds: Sequence[Round]) -> float:
    """The next share of CPU: one step down for a round that left more than half of what it found.

    The first round is no measure: whatever was written while all was sent is dirty.
    """
    now = rounds[-1].cpu_share
    if len(rounds) < 2 or _left_of(rounds, len(rounds) - 1) <= STILL_HALVING:
        return now
    return next((share for share in SHARES if share < now), now)


def _size(count: float) -> str:
    if count >= 1 << 30:
        return f"{count / (1 << 30):.1f} GiB"
    return f"{count / (1 << 20):.{0 if count >= 100 << 20 else 1}f} MiB"


class Heat:
    """How often each page was found dirty since its space was first seen.

    The first look at a space finds all of it, which says nothing, and is not counted. Counting
    takes 0.1 us a page: what follows happens under the freeze too.
    """

    def __init__(self) -> None:
        self._counts: dict[int, Counter[int]] = {}

    def add(self, written: Mapping[int, Sequence[Run]]) -> None:
        """A round's runs, by space."""
        for space, runs in written.items():
            if (counts := self._counts.get(space)) is None:
                self._counts[space] = Counter()
            elif sum(end - start for start, end in runs) <= MAX_COUNTED * PAGE_SIZE:
                counts.update(chain.from_iterable(map(_pages, runs)))

    def drop(self, space: int) -> None:
        """The space is gone."""
        self._counts.pop(space, None)

    def order(self, written: Mapping[int, Sequence[Run]]) -> list[tuple[int, Run]]:
        """These runs as (space, run), cut where the heat changes, the hottest last."""
        pieces = [
            (heat, space, run)
            for space, runs in written.items()
            for heat, run in _by_heat(runs, self._counts.get(space, {}))
        ]
        pieces.sort()
        return [(space, run) for _, space, run in pieces]

    def hottest(self, limit_pages: int) -> dict[int, list[Run]]:
        """Up to so many pages: the hottest first."""
        least = self._least_of(limit_pages)
        hot = [
            (-heat, space, page)
            for space, counts in self._counts.items()
            for page, heat in counts.items()
            if heat >= least
        ]
        hot.sort()
        found: dict[int, list[Run]] = {}
        for (_, space), pages in groupby(hot[:limit_pages], lambda each: each[:2]):
            found.setdefault(space, []).extend(_runs(page for _, _, page in pages))
        return found

    def _least_of(self, limit_pages: int) -> int:
        """The heat of the least of the hottest pages."""
        levels: Counter[int] = Counter()
        for counts in self._counts.values():
            levels.update(counts.values())
        for heat in sorted(levels, reverse=True):
            limit_pages -= levels[heat]
            if limit_pages <= 0:
                return heat
        return 1


def _pages(run: Run) -> range:
    return range(run[0] // PAGE_SIZE, run[1] // PAGE_SIZE)


def _runs(pages: Iterable[int]) -> list[Run]:
    """Pages by number, in order, as runs."""
    return normalized((page * PAGE_SIZE, (page + 1) * PAGE_SIZE) for page in pages)


def _by_heat(runs: Sequence[Run], counts: Mapping[int, int]) -> Iterator[tuple[int, Run]]:
    """The runs in pieces of one heat each."""
    for start, end in runs:
        if not counts or end - start == PAGE_SIZE:
            yield counts.get(start // PAGE_SIZE, 0), (start, end)
            continue
        for heat, pages in groupby(_pages((start, end)), lambda page: counts.get(page, 0)):
            stop = start + sum(1 for _ in pages) * PAGE_SIZE
            yield heat, (start, stop)
            start = stop
