"""Image files over a data-plane stream, sent while CRIU still writes them.

CRIU appends to its pages-*.img files from start to end, so their bytes can leave as soon as they
are in the file; every other image is small and goes once the dump is held. A record is a header
(kind u8, name length u16, offset u64, byte count u32), the name and the bytes; one of kind 0 ends
the stream and is answered by one byte. The receiver trusts nothing: plain names only, files made
new, in order, without a gap.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path

from migrator.bandwidth import Limiter
from migrator.dataplane import hang_up
from migrator.errors import PeerLost, ProtocolError
from migrator.pages.known import Given, Kept
from runtime.memory.contents import PAGE_SIZE

_RECORD = struct.Struct(">BHQI")
# Kinds: the end; bytes of an image; pages that are none yet; numbers of those in place of bytes.
_END, _BYTES, _GIVEN, _NUMBERS = range(4)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CHUNK = 1 << 20
POLL_S = 0.002
#: of images that are sent in one piece
_TOGETHER = 1 << 16
#: kept free besides what is known to be needed
SPARE_BYTES = 32 << 20
#: of pages that are given before the freeze, beside those of shared memory
LOADED_BYTES = 64 << 20
#: what of its shared memory changes meanwhile is given again
TIMES_GIVEN = 2
PREFIX = "migrator-images-"
#: from the source's word that all is sent to its arrival
ARRIVAL_TIMEOUT_S = 30.0
# CRIU's and our own logs and statistics stay on this side
LOCAL_ONLY = re.compile(r".*\.log|stats-.*|.*\.pid|.*\.socket")


def place_for(memory_bytes: int) -> Path | None:
    """Where images of that size can lie for a while: in memory if there is plenty, else on disk."""
    places = Path("/dev/shm"), Path("/var/tmp")
    return next((place for place in places if _room_in(place) > memory_bytes + SPARE_BYTES), None)


def room_to_keep(images_dir: Path, memory_bytes: int, shared_bytes: int) -> int:
    """How many bytes of given pages are kept beside images of that size: what is left, if need be.

    shared_bytes: the shared memory of the container.
    """
    wanted = LOADED_BYTES + TIMES_GIVEN * shared_bytes
    return max(0, min(wanted, _room_in(images_dir.parent) - memory_bytes - SPARE_BYTES))


def _room_in(place: Path) -> int:
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return 0
    return min(free, _available_memory() // 2) if place.name == "shm" else free


def choose_images_dir(container: str, memory_bytes: int) -> Path:
    """Where the images of one migration are to lie, not yet made: it goes to the journal first.

    Raises OSError when nowhere is room.
    """
    place = place_for(memory_bytes)
    if place is None:
        why = f"no room for {memory_bytes >> 20} MiB of images of {container}"
        raise OSError(errno.ENOSPC, why)
    return place / f"{PREFIX}{container}-{secrets.token_hex(8)}"


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


class ImageSender:
    """Sends what appears in *images_dir* as it appears; `finish()` sends the rest.

    Owns the stream. Runs a thread between `start()` and `finish()` or `abort()`. bytes_sent counts
    what left so far. keeps_bytes: of given pages the other side keeps that many.
    """

    def __init__(
        self,
        images_dir: Path,
        stream: ssl.SSLSocket,
        limiter: Limiter | None = None,
        *,
        keeps_bytes: int = 0,
    ) -> None:
        self.images_dir = images_dir
        self._limiter = limiter or Limiter(None)
        self.bytes_sent = 0
        self._stream = stream
        self._sent: dict[str, int] = {}
        self._buffer = bytearray()
        self._given = Given(keeps_bytes)
        self._complete = threading.Event()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="images", daemon=True)

    def give(self, blocks: Iterable[bytes]) -> int:
        """Before `start`: send pages that are likely to be found in the images, so that numbers
        will do for them then. blocks: whole pages, CHUNK at most. Raises PeerLost.

        Returns how many bytes were not there yet.
        """
        before = self.bytes_sent
        try:
            for block in blocks:
                for pages in self._given.new(block):
                    self._put(_RECORD.pack(_GIVEN, 0, 0, len(pages)))
                    self._put(pages)
                    self.bytes_sent += len(pages)
            self._flush()
        except OSError as error:
            raise PeerLost("the data plane", f"sending pages: {error}") from error
        return self.bytes_sent - before

    def start(self) -> None:
        self._thread.start()

    def complete(self) -> None:
        """The dump is complete: what is left goes now, and `finish` says how that went."""
        self._complete.set()

    def finish(self, alive: Callable[[], None] = lambda: None) -> dict[str, int]:
        """Wait until all of the complete dump has arrived. Returns every file sent and its size.

        alive: called about ten times a second meanwhile; what it raises ends the wait.
        Raises what went wrong on the way: PeerLost for the stream, OSError for the files.
        """
        self.complete()
        while self._thread.is_alive():
            self._thread.join(0.1)
            alive()
        if self._error is not None:
            raise self._error
        return dict(self._sent)

    def abort(self) -> None:
        """Stop sending; the receiver keeps a part that its side discards."""
        self._stop.set()
        hang_up(self._stream)
        if self._thread.ident is None:
            self._stream.close()
        else:
            self._thread.join(5.0)

    def _run(self) -> None:
        try:
            while not self._complete.is_set() and not self._stop.is_set():
                if self._send_new("pages-"):
                    self._flush()
                else:
                    self._complete.wait(POLL_S)
            if not self._stop.is_set():
                self._send_new("")
                self._put(_RECORD.pack(_END, 0, 0, 0))
                self._flush()
                if self._stream.recv(1) != b"\0":
                    raise PeerLost("the data plane", "the image files did not arrive")
        except OSError as error:
            self._error = PeerLost("the data plane", f"sending image files: {error}")
        except BaseException as error:  # noqa: BLE001 - finish() raises it in the caller's thread
            self._error = error
        finally:
            self._stream.close()

    def _send_new(self, prefix: str) -> int:
        """Send the bytes that files of this prefix have gained; returns how many.

        What is small may stay in the buffer, for the next to go with it.
        """
        sent = 0
        for name in sorted(os.listdir(self.images_dir)):
            if name.startswith(prefix) and not LOCAL_ONLY.fullmatch(name):
                sent += self._send_file(name)
        return sent

    def _send_file(self, name: str) -> int:
        path = self.images_dir / name
        if not path.is_file() or path.is_symlink():
            return 0
        done = start = self._sent.get(name, 0)
        with path.open("rb", buffering=0) as file:
            file.seek(done)
            while (data := self._read(file, name)) or name not in self._sent:
                for kind, body, size in self._records(name, data):
                    self._put(_RECORD.pack(kind, len(name), done, len(body)) + name.encode())
                    self._put(body)
                    self.bytes_sent += len(body)
                    done += size
                self._sent[name] = done
        return done - start

    def _read(self, file: FileIO, name: str) -> bytes:
        """The next of it; of pages that are still being written only whole ones."""
        data = file.read(CHUNK)
        if self._complete.is_set() or not name.startswith("pages-"):
            return data
        part = len(data) % PAGE_SIZE
        file.seek(-part, os.SEEK_CUR)
        return data[: len(data) - part]

    def _records(self, name: str, data: bytes) -> Iterator[tuple[int, bytes | memoryview, int]]:
        """Kind and body of the records for *data*, and how much of it each stands for."""
        if not (data and self._given and name.startswith("pages-")):
            yield _BYTES, data, len(data)
            return
        for body, pages in self._given.split(data):
            yield (_NUMBERS, body, pages * PAGE_SIZE) if pages else (_BYTES, body, len(body))

    def _put(self, data: bytes | memoryview) -> None:
        """Small images go together: each write of its own is a TLS record and a packet."""
        if len(self._buffer) + len(data) <= _TOGETHER:
            self._buffer += data
            return
        self._flush()
        self._send(data)

    def _flush(self) -> None:
        gathered, self._buffer = self._buffer, bytearray()
        self._send(gathered)

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        for piece in self._limiter.pieces(memoryview(data)):
            self._stream.sendall(piece)


def receive_images(stream: ssl.SSLSocket, images_dir: Path, *, keeps_bytes: int = 0) -> int:
    """Write what an ImageSender sends into *images_dir* (empty, ours); returns the bytes written.

    keeps_bytes: of pages that are given before.

    Raises ProtocolError for a record that cannot be, PeerLost at a broken stream, OSError (disk
    full); the directory then holds a part.
    """
    files: dict[str, int] = {}
    total = 0
    kept = Kept(images_dir, keeps_bytes)
    reader = _Reader(stream)
    try:
        while True:
            kind, length, offset, count = _RECORD.unpack(reader.exactly(_RECORD.size))
            if kind == _END:
                stream.sendall(b"\0")
                return total
            name = reader.exactly(length).decode("ascii", errors="replace")
            if count > CHUNK:
                raise ProtocolError("the source", f"an image record {name!r} of {count} bytes")
            if kind == _GIVEN:
                kept.add(reader.exactly(count))
                continue
            fd = files.get(name)
            if fd is None:
                fd = files[name] = _new_file(images_dir, name)
            if os.lseek(fd, 0, os.SEEK_CUR) != offset:
                raise ProtocolError("the source", f"image {name} with a gap at byte {offset}")
            if kind == _NUMBERS:
                total += kept.write(reader.exactly(count), fd)
            elif kind == _BYTES:
                reader.into_file(fd, count)
                total += count
            else:
                raise ProtocolError("the source", f"an image record of kind {kind}")
    finally:
        kept.close()
        for fd in files.values():
            os.close(fd)


def _new_file(images_dir: Path, name: str) -> int:
    if not _NAME.fullmatch(name):
        raise ProtocolError("the source", f"an image called {name!r}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # 0o644: their directory is closed to others, but for those whom a restore shows them (shelf.py)
    return os.open(images_dir / name, flags, 0o644)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def sizes(images_dir: Path) -> dict[str, int]:
    """Name and size of every image file there, as `ImageSender.finish` lists them."""
    return {
        entry.name: entry.stat(follow_symlinks=False).st_size
        for entry in os.scandir(images_dir)
        if entry.is_file(follow_symlinks=False) and not LOCAL_ONLY.fullmatch(entry.name)
    }


class _Reader:
    """What comes out of a stream, in pieces of our own choice."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self._stream = stream
        self._view = memoryview(bytearray(CHUNK))
        self._start = self._end = 0

    def exactly(self, size: int) -> bytes:
        """The next *size* bytes, at most CHUNK; PeerLost when there are no more."""
        data = b""
        while len(data) < size:
            data += self._some(size - len(data))
        return data

    def into_file(self, fd: int, count: int) -> None:
        """Write the next *count* bytes to *fd*."""
        while count:
            piece = self._some(count)
            count -= len(piece)
            _write_all(fd, piece)

    def _some(self, most: int) -> memoryview:
        """At least one byte: good until the next call."""
        if self._start == self._end:
            self._start, self._end = 0, self._stream.recv_into(self._view)
            if not self._end:
                raise PeerLost("the source", "the image stream was cut off")
        start, self._start = self._start, min(self._start + most, self._end)
        return self._view[start : self._start]
