"""Pages from the source into the spaces, and what is missing written down behind them."""

from __future__ import annotations

from runtime.memory.lazy.layout import PAGE, W_FILLED, W_SHORT
from runtime.memory.lazy.pages import ABSENT, Pages
from runtime.memory.lazy.placing import Outcome, place
from runtime.memory.lazy.spaces import Area, Space
from runtime.memory.lazy.state import State


class NotWatched(Exception):
    """A page that is ours to fill is not in the hands of the userfaultfd."""


class Filling:
    """The one that fills. Pages are marked when they are there, discarded when they are marked."""

    def __init__(self, state: State, pages: Pages, *, discard: bool) -> None:
        self._words = state.words
        self._pages = pages
        #: whether what was filled is asked for by nobody else
        self.discard = discard
        #: whether all processes are as they were: what is not mapped then, will not be
        self.finished = False

    def answer(self, space: Space, page: int) -> Outcome:
        """Put the one page that somebody waits for."""
        area = space.area(page)
        if area is None or not space.missing(page):
            # Of memory that was dropped, or is new: as the kernel would have it.
            return place(space.uffd, page, page + PAGE, None)[0]
        return self._put(space, area, page, page + PAGE, urgent=True)

    def fill(
        self, space: Space, area: Area, start: int, end: int, *, urgent: bool = False
    ) -> Outcome:
        """Put the missing pages of [start, end), which lies in *area*; those that are here."""
        outcome = self._put(space, area, start, end, urgent=urgent)
        if outcome is Outcome.DONE and self.discard:
            shift = area.source - area.start
            self._pages.discard(space.source, start + shift, end + shift)
        return outcome

    def _put(self, space: Space, area: Area, start: int, end: int, *, urgent: bool) -> Outcome:
        shift, absent = area.source - area.start, False
        for low, high, source in self._pages.pieces(space.source, start + shift, end + shift):
            if source == ABSENT:
                absent = True
                if urgent:
                    self._pages.want(space.source, low, high)
                continue
            outcome, at = place(space.uffd, low - shift, high - shift, source)
            self._words[W_FILLED] += space.forget(low - shift, at)
            if outcome is Outcome.UNMAPPED and self.finished:
                behind = None if source is None else source + at - (low - shift)
                outcome = self._unmapped(space, at, behind)
                if outcome is Outcome.DONE:
                    return Outcome.CHANGING  # the rest of it another time
            if outcome is Outcome.SHORT:
                self._words[W_SHORT] += 1
            if outcome is not Outcome.DONE:
                return outcome
        return Outcome.ABSENT if absent else Outcome.DONE

    def _unmapped(self, space: Space, page: int, source: int | None) -> Outcome:
        """No mapping of the userfaultfd is at *page*, when all should be there."""
        # The mapping may have been looked for while it was being changed: then the kernel refuses
        # a second time because there is an event to be read first (userfaultfd_copy).
        outcome, _ = place(space.uffd, page, page + PAGE, source)
        if outcome is Outcome.DONE:
            space.forget(page, page + PAGE)
        if outcome is not Outcome.UNMAPPED:
            return outcome
        if not space.forked:
            raise NotWatched(
                f"the page {page:#x} of process {space.pid} cannot be filled: "
                "criu has not put its mapping into our hands"
            )
        # A mapping that is not inherited: madvise(2), MADV_DONTFORK.
        space.forget(page, page + PAGE)
        return Outcome.DONE
