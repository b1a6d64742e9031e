"""Where the pages come from: what a server asks of its source, and how a source is opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Piece(NamedTuple):
    """Pages from start to end have one source: None zeros, an address in our memory, or ABSENT."""

    start: int
    end: int
    source: int | None


#: no address of ours: the page is not here (yet)
ABSENT = -1


class Pages(Protocol):
    """A source of pages, named by space and the address that they had there."""

    #: whether pages may be ABSENT, and arrive
    streaming: bool

    def pieces(self, space: int, start: int, end: int) -> Iterator[Piece]:
        """The pages of [start, end), ascending, without gaps."""

    def discard(self, space: int, start: int, end: int) -> None:
        """Nobody will ask for these again."""

    def want(self, space: int, start: int, end: int) -> None:
        """Somebody waits for these, which are ABSENT."""

    def refresh(self) -> None:
        """See what others have written since."""

    def resume(self) -> None:
        """This process serves from now on; another one may have until now."""

    def descriptors(self) -> list[tuple[int, int]]:
        """What to poll, for which events: `arrived` is called when one of them is ready."""

    def arrived(self) -> list[tuple[int, int, int]]:
        """Take in what has come: runs (space, start, end) that are here now."""

    def patience(self) -> None:
        """Raises what ends the waiting for pages that do not arrive."""

    def complete(self) -> None:
        """Nobody will ask for anything again."""
