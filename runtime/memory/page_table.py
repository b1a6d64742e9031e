"""The page table of a store: (address space, address) -> slot and hash, in shared memory.

Three sparse files. `leaves`: a header, then a key for each leaf (its space and its number there;
0: unused). `slots`: 512 x u32 for each leaf, where a page's content lies. `hashes`: 512 x 16 bytes
for each leaf. Whoever maps them sees every change at once; a leaf counts once its key is there, a
page once its hash is. All words are written whole, so that a killed writer leaves none in halves.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from pathlib import Path

from runtime.memory.contents import HASH_SIZE, KEY_SIZE, NO_HASH, PAGE_SIZE
from runtime.memory.hash_table import Hashes
from runtime.memory.leaves import LEAF_BYTES, LEAF_PAGES, Part
from runtime.memory.shared_file import SharedFile
from runtime.memory.store_errors import CorruptStore, StoreFull

#: what a slot can be besides the number of one
MISSING, ZERO, SERVED = 0, 1, 2
FIRST_SLOT = 3

SLOT_BYTES = LEAF_PAGES * 4
HASH_BYTES = LEAF_PAGES * HASH_SIZE
LEAF_COST = SLOT_BYTES + HASH_BYTES + 8
# Tables may grow to half of the data, plus what address spaces with little in many places take.
_SPARE_LEAVES = 2048

_MAGIC = b"MIGPAGE2"
_FIXED = struct.Struct("<8sIIQ")
_KEY_AT = 32
_HEADER_BYTES = 4096
# Words of 8 bytes of the header that change
_COUNT, _GENERATION = 8, 9
_KEYS = _HEADER_BYTES // 8
_NUMBER_BITS = 36
_USED = 1 << 63


class PageTable(Hashes):
    """Not locked: whoever changes it sees to it that nobody else does.

    slot_limit: how many slots the store may have, special ones included.
    """

    def __init__(self, directory: Path, slot_limit: int | None = None) -> None:
        """Open the table in *directory*; with *slot_limit*, make it there.

        Raises CorruptStore, OSError.
        """
        self.directory = directory
        if slot_limit is not None:
            self._create(slot_limit)
        self._leaves = SharedFile(directory / "leaves")
        self.slot_limit = self._checked_limit()
        self._limit = _leaf_limit(self.slot_limit)
        self._slots = SharedFile(directory / "slots")
        self._hashes = SharedFile(directory / "hashes")
        if (self._slots.size, self._hashes.size) != (
            self._limit * SLOT_BYTES,
            self._limit * HASH_BYTES,
        ):
            raise CorruptStore(directory, "its tables are cut short")
        self._words = self._leaves.view.cast("Q")
        self._slot_words = self._slots.view.cast("I")
        self._spaces: dict[int, dict[int, int]] = {}
        self._free: list[int] = []
        self._seen = (-1, -1)
        self.refresh()

    def _create(self, slot_limit: int) -> None:
        limit = _leaf_limit(slot_limit)
        SharedFile(self.directory / "slots", limit * SLOT_BYTES).close()
        SharedFile(self.directory / "hashes", limit * HASH_BYTES).close()
        leaves = SharedFile(self.directory / "leaves", _HEADER_BYTES + limit * 8)
        leaves.ensure(_HEADER_BYTES)
        leaves.view[: _FIXED.size] = _FIXED.pack(_MAGIC, 1, PAGE_SIZE, slot_limit)
        leaves.view[_KEY_AT : _KEY_AT + KEY_SIZE] = os.urandom(KEY_SIZE)
        leaves.close()

    def _checked_limit(self) -> int:
        if self._leaves.size < _HEADER_BYTES:
            raise CorruptStore(self.directory, "its table is cut short")
        magic, version, page_size, limit = _FIXED.unpack_from(self._leaves.view)
        if (magic, version, page_size) != (_MAGIC, 1, PAGE_SIZE):
            raise CorruptStore(self.directory, "another version wrote it, or it has other pages")
        if self._leaves.size != _HEADER_BYTES + _leaf_limit(limit) * 8:
            raise CorruptStore(self.directory, "its table is cut short")
        return int(limit)

    @property
    def key(self) -> bytes:
        """Of the hashes in it."""
        return bytes(self._leaves.view[_KEY_AT : _KEY_AT + KEY_SIZE])

    @key.setter
    def key(self, key: bytes) -> None:
        self._leaves.view[_KEY_AT : _KEY_AT + KEY_SIZE] = key

    def refresh(self) -> None:
        """See the leaves that others have made or dropped since; at most 1 us for each."""
        seen = (self._words[_COUNT], self._words[_GENERATION])
        if seen == self._seen:
            return
        count = min(seen[0], self._limit)
        spaces: dict[int, dict[int, int]] = {}
        free = []
        for leaf, key in enumerate(self._words[_KEYS : _KEYS + count].tolist()):
            if key:
                space, number = divmod(key & ~_USED, 1 << _NUMBER_BITS)
                spaces.setdefault(space, {})[number] = leaf
            else:
                free.append(leaf)
        self._spaces, self._free, self._seen = spaces, free, seen

    @property
    def spaces(self) -> list[int]:
        return sorted(self._spaces)

    @property
    def size_bytes(self) -> int:
        """What the tables take of memory or disk."""
        return int(self._words[_COUNT]) * LEAF_COST + _HEADER_BYTES

    def leaves(self, space: int) -> dict[int, int]:
        """Number in the address space -> leaf, for `slots` and `hashes_in`."""
        return self._spaces.get(space, {})

    def slots(self, leaf: int) -> memoryview:
        """The 512 words of a leaf, in place."""
        return self._slot_words[leaf * LEAF_PAGES : (leaf + 1) * LEAF_PAGES]

    def hashes_in(self, leaf: int) -> memoryview:
        """The 8192 bytes of a leaf, in place."""
        return self._hashes.view[leaf * HASH_BYTES : (leaf + 1) * HASH_BYTES]

    def part(self, leaf: int, part: Part) -> tuple[memoryview, memoryview]:
        """Words and hashes of a part of a leaf, in place."""
        hashes = self.hashes_in(leaf)[part.first * HASH_SIZE : part.last * HASH_SIZE]
        return self.slots(leaf)[part.first : part.last], hashes

    def check_room(self, start: int, end: int) -> None:
        """StoreFull where *start* to *end* has more leaves than there can be."""
        if (end - start) // LEAF_BYTES > self._limit:
            raise StoreFull(self.directory, self._limited())

    def leaf(self, space: int, number: int) -> int:
        """The leaf of that number, made with nothing in it where it is not there yet.

        Raises StoreFull.
        """
        found = self._spaces.get(space, {}).get(number)
        if found is not None:
            return found
        leaf = self._empty_leaf()
        self._publish(space, number, leaf)
        return leaf

    def _empty_leaf(self) -> int:
        count = self._words[_COUNT]
        leaf: int = self._free[-1] if self._free else count
        if leaf >= self._limit:
            raise StoreFull(self.directory, self._limited())
        try:
            self._leaves.ensure(_HEADER_BYTES + (leaf + 1) * 8)
            self._slots.ensure((leaf + 1) * SLOT_BYTES)
            self._hashes.ensure((leaf + 1) * HASH_BYTES)
        except OSError as error:
            raise StoreFull(self.directory, f"no room for its tables: {error}") from error
        self.slots(leaf)[:] = _NO_SLOTS
        self.hashes_in(leaf)[:] = NO_HASH * LEAF_PAGES
        return leaf

    def _limited(self) -> str:
        return f"it has tables for {self._limit} places of {LEAF_BYTES >> 20} MiB"

    def _publish(self, space: int, number: int, leaf: int) -> None:
        self._words[_KEYS + leaf] = _USED | space << _NUMBER_BITS | number
        if self._free:
            self._free.pop()
            self._words[_GENERATION] += 1
        else:
            self._words[_COUNT] = leaf + 1
        self._spaces.setdefault(space, {})[number] = leaf
        self._seen = (self._words[_COUNT], self._words[_GENERATION])

    def rename(self, space: int, new_space: int) -> None:
        """What was of *space* is of *new_space*, which has nothing yet."""
        for number, leaf in self._spaces[space].items():
            self._words[_KEYS + leaf] = _USED | new_space << _NUMBER_BITS | number
        self._words[_GENERATION] += 1
        self.refresh()

    def drop(self, space: int, number: int) -> None:
        """The leaf is nobody's any more."""
        leaf = self._spaces[space].pop(number)
        self._words[_KEYS + leaf] = 0
        self._words[_GENERATION] += 1
        self._free.append(leaf)
        self._seen = (self._words[_COUNT], self._words[_GENERATION])
        if not self._spaces[space]:
            del self._spaces[space]

    @property
    def lock_fd(self) -> int:
        """What processes lock (flock(2)) while they change the table."""
        return self._leaves.fd

    def close(self) -> None:
        self._words.release()
        self._slot_words.release()
        for file in (self._leaves, self._slots, self._hashes):
            file.close()

    def _numbers(self, space: int) -> Collection[int]:
        return self.leaves(space)

    def _leaf_hashes(self, space: int, number: int) -> memoryview | None:
        leaf = self.leaves(space).get(number)
        return None if leaf is None else self.hashes_in(leaf)


def grow_table(directory: Path, slot_limit: int) -> None:
    """Have room for so many slots in a table that nobody has open."""
    limit = _leaf_limit(slot_limit)
    os.truncate(directory / "slots", limit * SLOT_BYTES)
    os.truncate(directory / "hashes", limit * HASH_BYTES)
    with (directory / "leaves").open("r+b") as leaves:
        leaves.truncate(_HEADER_BYTES + limit * 8)
        leaves.write(_FIXED.pack(_MAGIC, 1, PAGE_SIZE, slot_limit))


_NO_SLOTS = memoryview(bytes(SLOT_BYTES)).cast("I")


def _leaf_limit(slot_limit: int) -> int:
    return slot_limit * PAGE_SIZE // (2 * LEAF_COST) + _SPARE_LEAVES
