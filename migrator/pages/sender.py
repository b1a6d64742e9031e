"""The source's end of a page stream: reads pages, hashes them, sends what is not there yet.

A page that was written and is what it was before, or was read before its last write and hence
found twice, is read and hashed again, and that is all: it lies there at its address.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from migrator.bandwidth import Limiter
from migrator.errors import MigrationError, ProtocolError
from migrator.pages.batches import Contents, prefixes, split
from migrator.pages.channel import PEER, PageChannel
from migrator.pages.compared import Compared
from migrator.pages.compression import Compressor, Flow
from migrator.pages.records import (
    MAX_FORGET,
    MAX_PAGES,
    MAX_RUNS,
    PAGE,
    Kind,
    Record,
    pack,
    pack_runs,
    unpack_runs,
)
from runtime.memory.compression import available
from runtime.memory.contents import HASH_SIZE, ZERO_HASH, PageHash, split_hashes
from runtime.memory.hash_table import HashTable, joined
from runtime.memory.runs import Run, union
from runtime.memory.store_errors import MissingPages

#: a destination that still asks for the same pages after that many answers is not sound
MAX_ANSWERS = 8

#: fills the view with memory from an address on; how many bytes could be read
Read = Callable[[memoryview, int], int]
#: or the runs that are missing
_Digest = bytes | list[Run]


@dataclass(frozen=True, slots=True)
class Arrived:
    """What was sent between two marks and is in the destination's store."""

    bytes_sent: int
    page_bytes: int
    seconds: float

    @property
    def bandwidth(self) -> float:
        """Bytes per second on the wire, until all had arrived."""
        return self.bytes_sent / max(self.seconds, 1e-6)


class Sender:
    """Sends pages over *stream*, which it owns; used by one thread.

    compression: "auto", "none", "lz4" or "zstd". limiter: shared with whatever else is sent.
    `flow` counts pages by sort, bytes and seconds. Every method raises PeerLost when the stream
    breaks, and MigrationError with the destination's words when it gave up; nothing can be sent
    after that, and the source's memory was only read.
    """

    def __init__(
        self, stream: ssl.SSLSocket, *, compression: str = "auto", limiter: Limiter | None = None
    ) -> None:
        self.flow = Flow()
        self.table = HashTable()
        self._channel = PageChannel(stream, limiter or Limiter(None), self.flow)
        self._contents = Contents(ZERO_HASH)
        self._readers: dict[int, Read] = {}
        self._compared = Compared()
        #: what was read and is not sent yet: runs of one space, their pages side by side
        self._pages = memoryview(bytearray(MAX_PAGES * PAGE))
        self._batch: list[Run] = []
        self._space = self._filled = 0
        known, key, names = self._channel.greet()
        self._hash = PageHash(key)
        self._contents.learn(known)
        codecs = {name: codec for name, codec in available().items() if name in names}
        self._compressor = Compressor(compression, codecs, self.flow)
        self._marked = self.flow.copy()
        self._channel.busy_since = None

    def send_runs(self, space: int, runs: Iterable[Run], read: Read) -> None:
        """Send the pages of *runs* as they are now: see `send_run`."""
        self._readers[space] = read
        for start, end in runs:
            size = end - start
            room = self._pages[self._filled : self._filled + size]
            fits = space == self._space and len(room) == size
            if fits and self._timed(read, room, start) == size:
                self._batch.append((start, end))
                self._filled += size
            else:
                self.send_run(space, start, end, read)

    def send_run(self, space: int, start: int, end: int, read: Read) -> None:
        """Send the pages *start* to *end* of *space* as they are now; runs may come in any order.

        read: Space.read_into; what it cannot read (any more) is forgotten there. Pages are read at
        once, but small runs leave together: `mark` sees to it that all have left.
        """
        self._readers[space] = read
        while start < end:
            room = self._room_for(space)
            size = min(end - start, len(room))
            got = self._timed(read, room[:size], start) // PAGE * PAGE
            if got:
                self._batch.append((start, start + got))
                self._filled += got
            start += got
            if got < size:
                start = self._forget_hole(space, start, end, read)

    def send_gone(self, space: int) -> None:
        """Tell that *space* is not there any more."""
        self._send_batch()
        self._readers.pop(space, None)
        self._compared.drop(space)
        self.table.drop(space)
        self._channel.put(pack(Kind.GONE, space=space))

    def mark(self) -> Arrived:
        """Wait until all that was sent is in the store there; say how fast that went."""
        self._settle([])
        now = time.monotonic()
        self._compared.compact()
        sent = self.flow.since(self._marked)
        since = self._channel.busy_since or now
        self._marked, self._channel.busy_since = self.flow.copy(), None
        return Arrived(sent.bytes_sent, sent.page_bytes, now - since)

    def verify_sent(self) -> dict[int, list[Run]]:
        """`verify` all that was sent and not verified since."""
        self._send_batch()
        return self.verify(self._compared.since())

    def verify(self, spaces: Mapping[int, Sequence[Run]]) -> dict[int, list[Run]]:
        """Compare what is in the store there with what was sent, by the digest of these runs.

        What was found equal before and was not sent since is not compared again; all that was sent
        has arrived then. Returns the pages that are not there, to be sent again: {} when all is
        well. Raises MigrationError naming the space whose pages are not what was sent.
        """
        self._send_batch()
        wanted = {space: self._compared.left(space, runs) for space, runs in spaces.items()}
        asked = [
            (space, runs[at : at + MAX_RUNS])
            for space, runs in wanted.items()
            for at in range(0, len(runs), MAX_RUNS)
        ]
        missing: dict[int, list[Run]] = {}
        for (space, _), (ours, theirs) in zip(asked, self._settle(asked), strict=True):
            if isinstance(ours, list) or isinstance(theirs, list):
                lacking = union(
                    *(each if isinstance(each, list) else [] for each in (ours, theirs))
                )
                missing[space] = union(missing.get(space, []), lacking)
                for start, end in lacking:
                    self.table.forget(space, start, end)  # it is sent, whatever it is
            elif ours != theirs:
                raise MigrationError(
                    f"the pages of address space {space} are not the same at the destination: "
                    "look for faulty memory on both hosts"
                )
        for space, runs in wanted.items():
            if space not in missing:
                self._compared.equal(space, runs)
        return missing

    def say_whole(self) -> None:
        """Let the pages be used there: they are verified, and nothing more is sent."""
        self._channel.put(pack(Kind.WHOLE))
        self._channel.flush()

    def close(self) -> None:
        """Say that nothing follows, and wait until the destination has taken that in."""
        try:
            self._send_batch()
        finally:
            self._channel.close()

    def abort(self) -> None:
        """End the stream at once; from any thread, whose sending then raises PeerLost."""
        self._channel.abort()

    def _timed(self, read: Read, view: memoryview, start: int) -> int:
        began = time.perf_counter()
        got = read(view, start)
        self.flow.read_s += time.perf_counter() - began
        return got

    def _room_for(self, space: int) -> memoryview:
        """Where more pages of *space* can be read to."""
        if space != self._space or self._filled == len(self._pages):
            self._send_batch()
            self._space = space
        return self._pages[self._filled :]

    def _forget_hole(self, space: int, start: int, end: int, read: Read) -> int:
        """Pages from *start* on cannot be read: tell so; where they can be read again."""
        self._send_batch()  # which may have former contents of these
        hole_end = start + PAGE
        while hole_end < end and read(self._pages[:PAGE], hole_end) < PAGE:
            hole_end += PAGE
        self.table.forget(space, start, hole_end)
        self._compared.gone(space, (start, hole_end))
        for at in range(start, hole_end, MAX_FORGET * PAGE):
            pages = min((hole_end - at) // PAGE, MAX_FORGET)
            self._channel.put(pack(Kind.FORGET, space=space, address=at, pages=pages))
        self.flow.gone_pages += (hole_end - start) // PAGE
        return hole_end

    def _send_batch(self, *, again: bool = False) -> None:
        """Send what was read: runs whose pages lie one after the other.

        again: whole, though they were sent before.
        """
        if not self._batch:
            return
        self._channel.poll()
        space, runs, view = self._space, self._batch, self._pages[: self._filled]
        self._batch, self._filled = [], 0
        hashes, former = self._hashed(space, runs, view)
        if again:
            self._contents.forget(prefixes(hashes))
        elif hashes == former:
            self.flow.same_pages += len(view) // PAGE
            return
        else:
            runs, view, hashes = self._without_same(runs, view, hashes, former)
        self._compared.sent(space, runs)
        groups = self._contents.groups(hashes)
        first = 0
        for (kind, pages), pieces in zip(groups, split(runs, groups), strict=True):
            last = first + pages
            if kind == Kind.DATA:
                self._send_data(space, pieces, view[first * PAGE : last * PAGE])
            elif kind == Kind.SAME:
                self._send_same(space, pieces, hashes[first * HASH_SIZE : last * HASH_SIZE])
            else:
                self._send_zeros(space, pieces)
            first = last

    def _hashed(self, space: int, runs: list[Run], view: memoryview) -> tuple[bytes, bytes]:
        """The hashes of these pages, and those of what was last sent of them."""
        began = time.perf_counter()
        hashes = self._hash.of(view)
        former = self.table.exchange(space, runs, hashes)
        self.flow.hash_s += time.perf_counter() - began
        self.flow.page_bytes += len(view)
        return hashes, former

    def _without_same(
        self, runs: list[Run], view: memoryview, hashes: bytes, former: bytes
    ) -> tuple[list[Run], memoryview, bytes]:
        """What is otherwise than it was when it was last sent."""
        now = split_hashes(hashes)
        numbers = [
            number
            for number, (new, old) in enumerate(zip(now, split_hashes(former), strict=True))
            if new != old
        ]
        if len(numbers) == len(now):
            return runs, view, hashes
        self.flow.same_pages += len(now) - len(numbers)
        addresses = [at for start, end in runs for at in range(start, end, PAGE)]
        # writable: so the compressors' ctypes wants it
        pages = bytearray().join(view[number * PAGE : (number + 1) * PAGE] for number in numbers)
        return (
            list(joined(addresses[number] for number in numbers)),
            memoryview(pages),
            b"".join(now[number] for number in numbers),
        )

    def _send_data(self, space: int, runs: list[Run], view: memoryview) -> None:
        began = time.perf_counter()
        codec, packed = self._compressor.pack(view)
        self.flow.compress_s += time.perf_counter() - began
        pages, places = len(view) // PAGE, pack_runs(runs)
        self.flow.data_pages += pages
        header = pack(
            Kind.DATA,
            codec=codec,
            space=space,
            address=len(runs),
            pages=pages,
            size=len(places) + len(packed),
        )
        self._channel.put(header + places, packed)

    def _send_same(self, space: int, runs: list[Run], hashes: bytes) -> None:
        at = 0
        for start, end in runs:
            pages = (end - start) // PAGE
            known = hashes[at : at + pages * HASH_SIZE]
            self._channel.put(
                pack(Kind.SAME, space=space, address=start, pages=pages, size=len(known)), known
            )
            self.flow.same_pages += pages
            at += len(known)

    def _send_zeros(self, space: int, runs: list[Run]) -> None:
        for start, end in runs:
            pages = (end - start) // PAGE
            self._channel.put(pack(Kind.ZERO, space=space, address=start, pages=pages))
            self.flow.zero_pages += pages

    def _settle(self, asked: list[tuple[int, list[Run]]]) -> list[tuple[_Digest, _Digest]]:
        """Mark, and send what the destination then needs, until it needs nothing more.

        Returns our and its digest of what was asked.
        """
        for _ in range(MAX_ANSWERS):
            self._send_batch()
            for space, runs in asked:
                payload = pack_runs(runs)
                self._channel.put(pack(Kind.DIGEST, space=space, size=len(payload)), payload)
            self._channel.mark()
            ours = [self._digest(space, runs) for space, runs in asked]  # while it does the same
            theirs, needed = self._answers([space for space, _ in asked])
            if not needed:
                return list(zip(ours, theirs, strict=True))
            for record in needed:
                self._send_again(record.space, record.address, record.end)
        raise ProtocolError(PEER, "the same question again and again")

    def _digest(self, space: int, runs: list[Run]) -> _Digest:
        try:
            return self.table.digest(space, runs)
        except MissingPages as missing:
            return missing.runs

    def _answers(self, spaces: list[int]) -> tuple[list[_Digest], list[Record]]:
        """The digest that the destination has of each, and the pages that it needs."""
        digests: list[_Digest] = []
        needed: list[Record] = []
        for record, said in self._channel.answers():
            if record.kind == Kind.NEED:
                needed.append(record)
            elif (
                record.kind not in (Kind.DIGEST, Kind.MISSING)
                or [record.space] != spaces[len(digests) : len(digests) + 1]
            ):
                raise ProtocolError(PEER, f"no answer to a mark: {record}")
            else:
                missing = record.kind == Kind.MISSING
                digests.append(unpack_runs(said, PEER) if missing else bytes(said))
        if len(digests) < len(spaces):
            raise ProtocolError(PEER, "too few digests")
        return digests, needed

    def _send_again(self, space: int, start: int, end: int) -> None:
        """The destination has let go of these contents."""
        if (read := self._readers.get(space)) is not None:  # else it is gone since
            self._send_batch()
            self.send_run(space, start, end, read)
            self._send_batch(again=True)
