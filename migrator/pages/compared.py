"""Which pages were found at the destination as they were sent: what is left to be compared (pure).

Under the freeze only what was sent last is compared, since all else was before it.
"""

from __future__ import annotations

from collections.abc import Iterable

from runtime.memory.runs import Run, minus, normalized, union


class Compared:
    """By address space. What is noted is sorted only when it is asked for."""

    def __init__(self) -> None:
        self._equal: dict[int, list[Run]] = {}
        #: since then
        self._sent: dict[int, list[Run]] = {}
        self._gone: dict[int, list[Run]] = {}

    def sent(self, space: int, runs: list[Run]) -> None:
        """These are otherwise now."""
        self._sent.setdefault(space, []).extend(runs)
        if gone := self._gone.get(space):
            self._gone[space] = minus(normalized(gone), normalized(runs))

    def gone(self, space: int, run: Run) -> None:
        """Nothing is there any more, here or at the destination."""
        self._gone.setdefault(space, []).append(run)

    def drop(self, space: int) -> None:
        """The address space is gone."""
        for kept in (self._equal, self._sent, self._gone):
            kept.pop(space, None)

    def compact(self) -> None:
        """Keep what was noted in as few runs as possible."""
        self._sent = {space: normalized(runs) for space, runs in self._sent.items()}

    def since(self) -> dict[int, list[Run]]:
        """What was sent, is still there, and was not compared."""
        return {
            space: minus(normalized(runs), normalized(self._gone.get(space, ())))
            for space, runs in self._sent.items()
        }

    def left(self, space: int, runs: Iterable[Run]) -> list[Run]:
        """Those of *runs* that are not known to be equal, to be compared now."""
        changed = normalized([*self._sent.pop(space, ()), *self._gone.pop(space, ())])
        self._equal[space] = minus(self._equal.get(space, []), changed)
        return minus(list(runs), self._equal[space])

    def equal(self, space: int, runs: list[Run]) -> None:
        """What `left` has returned was found to be equal."""
        self._equal[space] = union(self._equal[space], runs)
