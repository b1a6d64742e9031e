"""What a lazy-pages server must not lose when it is killed, in memory that its successor shares.

Everything changes by the store of one word, which no SIGKILL can cut in two: the word says which of
two tables counts, which of two event logs, and how many of the log's events have been dealt with.
So an event's effect on the table and its being done are one step. The bytes that say which pages
are missing change in place: to clear one twice does no harm.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Mapping
from mmap import mmap
from typing import NamedTuple

from runtime.memory.lazy.layout import (
    ARENA_AT,
    DONE_MASK,
    DONE_SHIFT,
    GENERATION,
    LOG_BIT,
    LOG_BYTES,
    LOG_FD,
    LOG_KIND,
    LOG_USED,
    LOGS_AT,
    MAGIC,
    PAGE,
    PAGE_SHIFT,
    SIZE,
    STARTING,
    TABLE_BIT,
    TABLE_BYTES,
    TABLE_HEAD_BYTES,
    TABLES_AT,
    W_COMMIT,
    W_MAGIC,
    W_ORIGIN_COUNT,
    W_ORIGINS,
    W_RECEIVED,
    W_RECEIVED_COUNT,
    W_STATUS,
    W_TOTAL,
    WORDS,
    WORDS_AT,
    WORDS_END,
)
from runtime.memory.lazy.spaces import Area, Space, joined

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MADV_REMOVE = 9
_HEAD = struct.Struct("4q")
_ROW = struct.Struct("11q")
_AREA = struct.Struct("4q")
_RUN = struct.Struct("2q")
# From a byte of a space (1: it is missing) to one of what has arrived (0: it is to be asked for).
_NOT_MISSING = bytes(0 if byte == 1 else 2 for byte in range(256))


class Table:
    """The spaces, and what else changes together with them."""

    def __init__(self, arena: int = ARENA_AT, awaited_pid: int = 0, finished: bool = False) -> None:
        self.spaces: list[Space] = []
        self.arena = arena
        #: CRIU has sent this pid, and its descriptor is what comes next
        self.awaited_pid = awaited_pid
        self.finished = finished


class Origin(NamedTuple):
    """A range of pages at the source, and the number of the first of them."""

    space: int
    start: int
    end: int
    first: int


class State:
    """The shared memory, mapped."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.memory = mmap(fd, SIZE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.words = memoryview(self.memory)[: WORDS * 8].cast("Q")

    @classmethod
    def create(cls, pid_spaces: Mapping[int, int]) -> State:
        """Memory for a server that expects these pids of CRIU (pid: number of its space)."""
        fd = os.memfd_create("migrator-lazy-pages", os.MFD_CLOEXEC)
        os.ftruncate(fd, SIZE)
        state = cls(fd)
        state.words[W_MAGIC] = MAGIC
        state.words[W_STATUS] = STARTING
        state.expect(pid_spaces)
        return state

    def expect(self, pid_spaces: Mapping[int, int]) -> None:
        """Say whom CRIU will send; before it has connected."""
        table = Table()
        table.spaces = [
            Space(self.memory, [], source=space, pid=pid) for pid, space in pid_spaces.items()
        ]
        self.save(table)

    @classmethod
    def attach(cls, fd: int) -> State:
        """What another process has created. Raises ValueError when *fd* is something else."""
        state = cls(fd)
        if state.words[W_MAGIC] != MAGIC:
            raise ValueError("this is not the memory of a lazy-pages server")
        return state

    def lock(self) -> None:
        """Keep the words and logs in memory: the kernel writes to them when we are being killed.

        A page fault could fail then, and an event would be lost. Locks end with each fork.
        """
        _libc.mlock(self.address, TABLES_AT)

    # ---- the table

    def add_runs(
        self,
        space: Space,
        table: Table,
        lazy: Iterable[tuple[int, int]],
        hot: Iterable[tuple[int, int]],
    ) -> None:
        """Have *space* miss the pages of *lazy* (ascending); before anyone serves it."""
        runs = list(lazy)
        areas = []
        for start, end in joined(runs):
            areas.append(Area(start, end, start, table.arena))
            table.arena += end - start >> PAGE_SHIFT
        space.areas = areas
        for start, end in runs:
            area = space.area(start)
            assert area is not None
            at, pages = (
                area.bytes_at + (start - area.start >> PAGE_SHIFT),
                end - start >> PAGE_SHIFT,
            )
            self.memory[at : at + pages] = b"\x01" * pages
            self.words[W_TOTAL] += pages
        table.arena = aligned(table.arena, 8)
        packed = b"".join(_RUN.pack(*run) for run in hot)
        self.memory[table.arena : table.arena + len(packed)] = packed
        space.hot = table.arena, len(packed) // _RUN.size
        table.arena += len(packed)

    def add_origins(self, table: Table) -> None:
        """Write down where all pages are missing now, and room for what arrives."""
        areas = {(space.source, area.start): area for space in table.spaces for area in space.areas}
        first, rows, received = 0, [], []
        for (space, start), area in sorted(areas.items()):
            pages = area.end - start >> PAGE_SHIFT
            rows.append(Origin(space, start, area.end, first))
            missing = self.memory[area.bytes_at : area.bytes_at + pages]
            received.append(missing.translate(_NOT_MISSING))
            first += pages
        at = aligned(table.arena, 8)
        packed = b"".join(_AREA.pack(*row) for row in rows)
        self.memory[at : at + len(packed)] = packed
        self.memory[at + len(packed) : at + len(packed) + first] = b"".join(received)
        self.words[W_ORIGINS], self.words[W_ORIGIN_COUNT] = at, len(rows)
        self.words[W_RECEIVED], self.words[W_RECEIVED_COUNT] = at + len(packed), first
        table.arena = at + len(packed) + first

    def origins(self) -> tuple[list[Origin], int, int]:
        """What `add_origins` wrote: ranges, the offset of the byte of each page, how many pages."""
        at, count = self.words[W_ORIGINS], self.words[W_ORIGIN_COUNT]
        data = self.memory[at : at + count * _AREA.size]
        rows = [Origin(*row) for row in _AREA.iter_unpack(data)]
        return rows, self.words[W_RECEIVED], self.words[W_RECEIVED_COUNT]

    def hot_runs(self, space: Space) -> list[tuple[int, int]]:
        """The runs to fill before all others."""
        at, count = space.hot
        return list(_RUN.iter_unpack(self.memory[at : at + count * _RUN.size]))

    def load(self) -> Table:
        """The table that counts."""
        at = self._table_at(self.words[W_COMMIT])
        count, arena, awaited, finished = _HEAD.unpack_from(self.memory, at)
        table = Table(arena, awaited, bool(finished))
        for number in range(count):
            table.spaces.append(self._load_space(at + TABLE_HEAD_BYTES + number * _ROW.size))
        return table

    def look(self) -> Table:
        """The table that counts, for who does not serve: it may be written anew meanwhile."""
        while True:
            before = self.words[W_COMMIT]
            table = self.load()
            if self.words[W_COMMIT] // GENERATION == before // GENERATION:
                return table

    def _load_space(self, at: int) -> Space:
        row = _ROW.unpack_from(self.memory, at)
        uffd, pid, pidfd, source, forked, areas_at, capacity, half, count, hot_at, hot_count = row
        raw = areas_at + half * capacity * _AREA.size
        data = self.memory[raw : raw + count * _AREA.size]
        space = Space(
            self.memory,
            [Area(*values) for values in _AREA.iter_unpack(data)],
            source=source,
            pid=pid,
            uffd=uffd,
            pidfd=pidfd,
            forked=bool(forked),
            hot=(hot_at, hot_count),
        )
        space.slot = areas_at, capacity, half
        space.changed = False
        return space

    def save(self, table: Table, *, done: int | None = None) -> None:
        """Have *table* count from now on, and *done* events of the log be done (None: the log)."""
        word = (self.words[W_COMMIT] ^ TABLE_BIT) + GENERATION
        at = self._table_at(word)
        if TABLE_HEAD_BYTES + len(table.spaces) * _ROW.size > TABLE_BYTES:
            raise MemoryError(f"{len(table.spaces)} processes are more than can be served")
        rows = b"".join(self._row(space, table) for space in table.spaces)
        head = len(table.spaces), table.arena, table.awaited_pid, table.finished
        _HEAD.pack_into(self.memory, at, *head)
        at += TABLE_HEAD_BYTES
        self.memory[at : at + len(rows)] = rows
        self.words[W_COMMIT] = self._next_log(word) if done is None else _with_done(word, done)

    def _row(self, space: Space, table: Table) -> bytes:
        if space.changed:
            self._write_areas(space, table)
        areas_at, capacity, half = space.slot
        return _ROW.pack(
            space.uffd,
            space.pid,
            space.pidfd,
            space.source,
            space.forked,
            areas_at,
            capacity,
            half,
            len(space.areas),
            *space.hot,
        )

    def _write_areas(self, space: Space, table: Table) -> None:
        """Write them where the table that still counts does not look."""
        at, capacity, half = space.slot
        if capacity < len(space.areas):
            at, capacity, half = aligned(table.arena, 8), 2 * len(space.areas) + 16, 1
            table.arena = at + 2 * capacity * _AREA.size
        data = b"".join(_AREA.pack(*area) for area in space.areas)
        raw = at + (1 - half) * capacity * _AREA.size
        self.memory[raw : raw + len(data)] = data
        space.slot = at, capacity, 1 - half
        space.changed = False

    def fork(self, parent: Space, uffd: int, table: Table) -> Space:
        """A child of *parent*, which misses what it misses; to be put into the table and saved."""
        at = aligned(table.arena, PAGE)
        table.arena = at + parent.pages()
        return Space(
            self.memory,
            parent.copied(at),
            source=parent.source,
            pid=parent.pid,
            uffd=uffd,
            forked=True,
        )

    def release(self, space: Space) -> None:
        """Give back the memory of a space that no table has any more."""
        for area in space.areas:
            start = aligned(area.bytes_at, PAGE)
            end = area.bytes_at + (area.end - area.start >> PAGE_SHIFT) & ~(PAGE - 1)
            if start < end:
                self.memory.madvise(_MADV_REMOVE, start, end - start)

    # ---- the log

    def begin(self, kind: int, fd: int) -> int:
        """The log is about what is read from *fd* next; its offset. It is empty.

        Also of what was made ready in it for a read that then brought nothing: between events that
        would look like one more.
        """
        at = self.log_at()
        self.memory[at : at + LOG_USED] = bytes(LOG_USED)
        struct.pack_into("Q", self.memory, at + LOG_FD, fd)
        struct.pack_into("Q", self.memory, at + LOG_KIND, kind)
        return at

    def logged(self) -> tuple[int, int, int]:
        """What the log is about (kind, descriptor), and how many of its events are done."""
        kind, fd = struct.unpack_from("2Q", self.memory, self.log_at())
        return kind, fd, self.words[W_COMMIT] >> DONE_SHIFT & DONE_MASK

    def log_at(self) -> int:
        """The offset of the log that counts."""
        return LOGS_AT + (LOG_BYTES if self.words[W_COMMIT] & LOG_BIT else 0)

    def done(self, count: int) -> None:
        """*count* events of the log are done."""
        self.words[W_COMMIT] = _with_done(self.words[W_COMMIT], count)

    def finish_log(self) -> None:
        """All of the log is done: go on in the other, empty one."""
        self.words[W_COMMIT] = self._next_log(self.words[W_COMMIT])

    def _next_log(self, word: int) -> int:
        word = _with_done(word, 0) ^ LOG_BIT
        at = LOGS_AT + (LOG_BYTES if word & LOG_BIT else 0)
        self.memory[at : at + LOG_USED] = bytes(LOG_USED)
        return word

    # ---- last words

    def say(self, text: str) -> None:
        """Leave *text* for whoever asks what became of the server."""
        data = text.encode()[: WORDS_END - WORDS_AT - 8]
        self.memory[WORDS_AT + 8 : WORDS_AT + 8 + len(data)] = data
        struct.pack_into("Q", self.memory, WORDS_AT, len(data))

    def said(self) -> str:
        """The last that was said; empty when nothing was."""
        (size,) = struct.unpack_from("Q", self.memory, WORDS_AT)
        return bytes(self.memory[WORDS_AT + 8 : WORDS_AT + 8 + size]).decode(errors="replace")

    @staticmethod
    def _table_at(word: int) -> int:
        return TABLES_AT + (TABLE_BYTES if word & TABLE_BIT else 0)


def aligned(offset: int, to: int) -> int:
    """*offset*, or the next multiple of *to* behind it."""
    return -(-offset // to) * to


def _with_done(word: int, count: int) -> int:
    return word & ~(DONE_MASK << DONE_SHIFT) | count << DONE_SHIFT
