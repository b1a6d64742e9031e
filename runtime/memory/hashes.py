"""Tracking by content: works on every kernel, at the price of reading all memory in each round.

A page counts as clean if it has the content that was last handed out by `read_into`: not what an
earlier look found, for what was read between two looks may be neither the one nor the other.
"""

from __future__ import annotations

from hashlib import sha256

from runtime.memory.contents import HASH_SIZE, PAGE_SIZE, flat
from runtime.memory.runs import PAGE, Run, minus, normalized
from runtime.memory.spaces import Space

_BLOCK_PAGES = 256
_BLOCK_BYTES = _BLOCK_PAGES * PAGE
_UNKNOWN = bytes(HASH_SIZE * _BLOCK_PAGES)


class HashedSpace(Space):
    """A space whose pages are compared with what was read from it: 16 bytes a page are kept."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        # Hashes of the pages of each block, zeros for those that were never read.
        self._known: dict[int, bytearray] = {}
        self._buffer = bytearray(_BLOCK_BYTES)

    def read_into(self, view: memoryview | bytearray, start: int) -> int:
        length = super().read_into(view, start)
        whole = length // PAGE * PAGE
        self._remember(start, _hashes(memoryview(view)[:whole]))
        return length

    def written(self, own: list[list[Run]], *, final: bool) -> list[Run]:
        there = self.all_of(own)
        self._forget_all_but(there)
        return normalized(run for piece in _blocks(there) for run in self._changed(*piece))

    def _changed(self, start: int, end: int) -> list[Run]:
        """Of a run within one block."""
        block, offset = start // _BLOCK_BYTES, start % _BLOCK_BYTES // PAGE
        known = self._known.get(block)
        if known is None:
            return [(start, end)]
        view = memoryview(self._buffer)[: end - start]
        length = super().read_into(view, start) // PAGE * PAGE
        now = _hashes(view[:length])
        then = known[offset * HASH_SIZE : (offset + length // PAGE) * HASH_SIZE]
        changed = [] if now == then else _unlike(now, then, start)
        return [*changed, (start + length, end)]

    def _remember(self, start: int, hashes: bytes) -> None:
        done = 0
        while done < len(hashes):
            block, offset = divmod(start // PAGE + done // HASH_SIZE, _BLOCK_PAGES)
            part = hashes[done : done + (_BLOCK_PAGES - offset) * HASH_SIZE]
            known = self._known.setdefault(block, bytearray(_UNKNOWN))
            known[offset * HASH_SIZE : offset * HASH_SIZE + len(part)] = part
            done += len(part)

    def _forget_all_but(self, there: list[Run]) -> None:
        """What is gone comes back, if ever, as unknown: nobody need keep it meanwhile."""
        known = normalized(
            (block * _BLOCK_BYTES, (block + 1) * _BLOCK_BYTES) for block in self._known
        )
        for start, end in _blocks(minus(known, there)):
            block, offset = start // _BLOCK_BYTES, start % _BLOCK_BYTES // PAGE
            if end - start == _BLOCK_BYTES:
                del self._known[block]
            else:
                size = (end - start) // PAGE * HASH_SIZE
                where = slice(offset * HASH_SIZE, offset * HASH_SIZE + size)
                self._known[block][where] = bytes(size)


def _hashes(data: memoryview) -> bytes:
    """Nobody but us ever sees them, and only the standard library is there where some of us run."""
    view = flat(data)
    pages = (view[at : at + PAGE_SIZE] for at in range(0, len(view), PAGE_SIZE))
    return b"".join(sha256(page).digest()[:HASH_SIZE] for page in pages)


def _blocks(runs: list[Run]) -> list[Run]:
    """The runs cut at the borders of blocks."""
    return [
        (max(start, low), min(end, low + _BLOCK_BYTES))
        for start, end in runs
        for low in range(start // _BLOCK_BYTES * _BLOCK_BYTES, end, _BLOCK_BYTES)
    ]


def _unlike(now: bytes, then: bytes | bytearray, start: int) -> list[Run]:
    return [
        (start + n // HASH_SIZE * PAGE, start + (n // HASH_SIZE + 1) * PAGE)
        for n in range(0, len(now), HASH_SIZE)
        if now[n : n + HASH_SIZE] != then[n : n + HASH_SIZE]
    ]


def open_space(pid: int) -> tuple[Space, int]:
    """The space of *pid*; nothing is stopped for that. Raises OSError."""
    return HashedSpace(pid), 0
