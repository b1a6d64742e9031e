"""In which order the missing pages of one space are filled: near faults, hot ones, the rest."""

from __future__ import annotations

from collections import deque

from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.spaces import Area, Space

_TOP = 1 << 62
_NEAR = 128 << 10  # around a fault, aligned: what a program touches next is mostly there
_WAITING = 64


class Filler:
    """What to fill next in *space*."""

    def __init__(self, space: Space, hot: list[tuple[int, int]]) -> None:
        self.space = space
        #: pages that somebody waits for, and no answer could be given yet
        self.waiting: dict[int, None] = {}
        #: the address space has ended
        self.gone = False
        self._near: deque[int] = deque(maxlen=_WAITING)
        self._hot = hot[::-1]
        self._cursor = 0

    def fault(self, page: int) -> None:
        """*page* was asked for: go on around it."""
        if page // _NEAR not in self._near:
            self._near.append(page // _NEAR)

    @property
    def has_near(self) -> bool:
        """Whether there were faults since it was last filled around them."""
        return bool(self._near)

    def next_near(self) -> tuple[Area, int, int] | None:
        """The next run of missing pages close to a fault."""
        while self._near:
            start = self._near[0] * _NEAR
            run = self.space.run(start, start + _NEAR)
            if run is not None:
                return run
            self._near.popleft()
        return None

    def pass_near(self) -> None:
        """The run cannot be filled now."""
        self._near.popleft()

    def next(self) -> tuple[Area, int, int] | None:
        """The next run of missing pages; None: nothing is missing any more."""
        while self._hot:
            start, end = self._hot[-1]
            run = self.space.run(start, end)
            if run is not None:
                self._hot[-1] = run[2], end
                return run
            self._hot.pop()
        run = self.space.run(self._cursor, _TOP)
        if run is None and self._cursor:
            # Once more from the start: what could not be filled, and what was moved.
            run = self.space.run(0, _TOP)
        self._cursor = run[2] if run else 0
        return run


def page_of(address: int) -> int:
    """The page that *address* lies in."""
    return address & ~(PAGE - 1)
