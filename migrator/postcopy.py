"""A container that leaves without its memory: that follows page by page, when it runs elsewhere.

    open -> (freeze) begin -> complete: is served from now on -> (commit) serve

Nothing is copied before. What the restore itself needs is answered in a thread of its own, before
the commit; after it the answers may have to go over more than one connection (serving.py).
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from migrator import processes
from migrator.bandwidth import Limiter
from migrator.dataplane import hang_up
from migrator.errors import MigrationError, PeerLost
from migrator.messages import Filled
from migrator.report import Memory
from migrator.serving import GRACE_S, FrozenSpaces, Link, Serving
from runtime import Container
from runtime.checkpoint.bare_dump import BareCriu, FrozenMemory, complete, lazy_in
from runtime.memory.lazy.page_protocol import PagesGone
from runtime.memory.runs import Run


class PostCopy:
    """The memory of one container that stays behind at first; `close` or `abort` ends it."""

    def __init__(self, container: Container, limiter: Limiter) -> None:
        self.container, self._limiter = container, limiter
        self._stream: ssl.SSLSocket | None = None
        self._stacks: dict[int, list[Run]] = {}
        #: pid and start time of each process whose memory is wanted
        self.processes: list[list[int]] = []
        self._memory: FrozenSpaces | None = None
        self._serving: Serving | None = None
        self._first: threading.Thread | None = None
        self._complete = False
        self._error: BaseException | None = None

    def hot(self) -> list[list[int]]:
        """What is written most is not known: nobody has looked."""
        return []

    def open(self, stream: ssl.SSLSocket) -> None:
        """Take the first stream to the destination's server, before the freeze."""
        self._stream = stream

    def begin(self, bare: BareCriu) -> None:
        """All stands still: hide the memory from CRIU."""
        self._stacks = bare.hide_all(self.container)

    def complete(self, images_dir: Path, _: Callable[[], None]) -> dict[str, int]:
        """With the dump held: make its images whole, and begin to serve what they lack.

        Returns each process, by its pid inside, and its space.
        """
        found = [FrozenMemory.of(pid, pages) for pid, pages in self._stacks.items()]
        frozen = [memory for memory in found if memory is not None]
        lazy = complete(images_dir, frozen, lazy_in(images_dir, self.container.spec))
        self.processes = [processes.identity(pid) for pid in lazy]
        self._memory = FrozenSpaces((pid, start_time) for pid, start_time in self.processes)
        if gone := self._memory.gone:
            raise MigrationError(f"process {min(gone)} has ended, though it was frozen")
        self._serving = Serving(self._memory, self._limiter)
        self._first = threading.Thread(target=self._serve_first, name="lazy-pages", daemon=True)
        self._first.start()
        return {str(each.vpid): each.pid for each in frozen if each.pid in lazy}

    def settle(self, _: Callable[[], None]) -> None:
        """No page has to be there before it runs."""

    def ensure_served(self) -> None:
        """Before the commit: raise what ended the serving, for a restore would wait for ever."""
        if self._first is not None and not self._first.is_alive() and not self._complete:
            raise self._error or PeerLost("the data plane", "the stream of pages has ended")

    def serve(self, link: Link, give_up_after_s: float | None, check: Callable[[], None]) -> None:
        """It runs there: serve until it has all. See Serving.until_complete."""
        assert self._first is not None
        assert self._serving is not None
        while self._first.is_alive():
            self._first.join(0.1)
            check()
        if isinstance(self._error, PagesGone):
            raise link.pages_lost(self._error)
        if self._error is not None:
            raise self._error
        if not self._complete:
            patience_s = None if give_up_after_s is None else give_up_after_s + GRACE_S
            self._serving.until_complete(link, patience_s=patience_s, check=check)

    def report(self, filled: Filled | None) -> Memory:
        """How it went."""
        assert self._serving is not None
        sent = self._serving.sent
        return Memory(
            tracker="none",
            stop_us=0,
            rounds=[],
            bytes=sent.bytes,
            data_pages=sent.data_pages,
            zero_pages=sent.read_pages - sent.data_pages,
            same_pages=0,
            filled=filled,
        )

    def close(self) -> None:
        """Let go of the memory."""
        if self._memory is not None:
            self._memory.close()

    def abort(self) -> None:
        """Nothing is served any more."""
        if self._stream is not None:
            hang_up(self._stream)
        if self._first is not None:
            self._first.join()
        if self._stream is not None:
            self._stream.close()
        self.close()

    def _serve_first(self) -> None:
        assert self._serving is not None
        assert self._stream is not None
        try:
            self._complete = self._serving.over(self._stream)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._error = error
