"""In which order the missing pages of one space are filled: near faults, hot ones, the rest."""

from __future__ import annotations

from collections import deque

from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.spaces import Area, Space

_TOP = 1 << 62
_NEAR = 128 << 10  # around a fault, aligned: what a program touches next is mostly there
_WAITING = 64


class Filler:
    """What to fill next in *space*.

    streaming: pages arrive; one pass over all that is missing, then what `arrived` says.
    """

    def __init__(self, space: Space, hot: list[tuple[int, int]], *, streaming: bool) -> None:
        self.space = space
        #: pages that somebody waits for, and no answer could be given yet
        self.waiting: dict[int, None] = {}
        #: of these, no answer can be given before something arrives
        self.absent: dict[int, None] = {}
        #: the address space has ended
        self.gone = False
        #: nothing is to be done before something happens
        self.idle = False
        self._streaming = streaming
        self._arrived: deque[tuple[int, int]] = deque()
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

    def arrived(self, start: int, end: int) -> None:
        """These pages, by their addresses at the source, are here now."""
        self._arrived.append((start, end))
        self.retry()

    def retry(self) -> None:
        """What was absent may be here."""
        self.idle = False
        self.waiting |= self.absent
        self.absent.clear()

    def again(self, area: Area, start: int, end: int) -> None:
        """What is missing in [start, end) of *area* may be here, and is not passed again."""
        if self._streaming:
            shift = area.source - area.start
            self._arrived.append((start + shift, end + shift))
            self.idle = False

    def next(self) -> tuple[Area, int, int] | None:
        """The next run of missing pages; None: nothing to do now, and it is idle."""
        run = self._next_hot() or self._next_in_order() or self._next_arrived()
        self.idle = run is None
        return run

    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.space.run(0, _TOP) is None

    def _next_hot(self) -> tuple[Area, int, int] | None:
        while self._hot:
            start, end = self._hot[-1]
            run = self.space.run(start, end)
            if run is not None:
                self._hot[-1] = run[2], end
                return run
            self._hot.pop()
        return None

    def _next_in_order(self) -> tuple[Area, int, int] | None:
        if self._cursor < 0:
            return None
        run = self.space.run(self._cursor, _TOP)
        if run is None and self._cursor and not self._streaming:
            # Once more from the start: what could not be filled, and what was moved.
            run = self.space.run(0, _TOP)
        self._cursor = run[2] if run else -self._streaming
        return run

    def _next_arrived(self) -> tuple[Area, int, int] | None:
        while self._arrived:
            start, end = self._arrived.popleft()
            run = self.space.run_of(start, end)
            if run is not None:
                area, _, last = run
                rest = last + area.source - area.start
                if start < rest < end:
                    self._arrived.appendleft((rest, end))
                return run
        return None


def page_of(address: int) -> int:
    """The page that *address* lies in."""
    return address & ~(PAGE - 1)
