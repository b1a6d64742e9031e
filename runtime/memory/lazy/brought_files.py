"""The pages-*.img that CRIU wants to find in a lazy restore, though most of their pages are away.

Each has its size and what CRIU reads by itself, and holes where pages are lazy. A restore that is
not lazy would take these for zeros, so none of the files stays when its maker ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from criu_rpc.errors import BadImages
from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.page_protocol import (
    DATA,
    HEAD,
    MOST_PAGES,
    WANTED,
    ZEROS,
    BrokenProtocol,
    Stream,
)
from runtime.memory.lazy.split_images import FILES, Span, SplitImages

# Questions that are under way at once: a round trip for each run would take long.
_TOGETHER = 64


class BroughtFiles:
    """Context manager: the files are there when `fetch` has returned, and gone at its end."""

    def __init__(self, images: SplitImages) -> None:
        """Raises BadImages when a pages-*.img is here already: nothing of it is overwritten."""
        for path in images.sizes:
            if path.exists():
                raise BadImages(
                    path,
                    "is here already: remove it, or serve this directory without a page server",
                )
        self._eager = images.eager
        self._sizes = list(images.sizes.values())
        self._paths = list(images.sizes)
        self._fds: list[int] = []

    def fetch(self, stream: Stream) -> None:
        """Bring all over *stream*; after OSError or BrokenProtocol with another one, from anew."""
        fetch_pages(stream, self._eager, self._take)
        for path in self._paths:
            _unpublished(path).rename(path)

    def _take(self, space: int, offset: int, data: bytes) -> None:
        file = space - FILES
        if not 0 <= file < len(self._fds) or offset + len(data) > self._sizes[file]:
            raise BrokenProtocol(f"answer for file {file} at {offset:#x}")
        os.pwrite(self._fds[file], data, offset)

    def __enter__(self) -> Self:
        for path, size in zip(self._paths, self._sizes, strict=True):
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fds.append(os.open(_unpublished(path), flags, 0o644))
            os.ftruncate(self._fds[-1], size)
        return self

    def __exit__(self, *_: object) -> None:
        for path, fd in zip(self._paths, self._fds, strict=False):
            os.close(fd)
            _unpublished(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _unpublished(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def fetch_pages(
    stream: Stream, spans: Sequence[Span], take: Callable[[int, int, bytes], None]
) -> None:
    """Ask for *spans* and hand all that is not zeros to take(space, address, data).

    Raises OSError, BrokenProtocol when the stream is lost.
    """
    questions = list(_questions(spans))
    for first in range(0, len(questions), _TOGETHER):
        together = questions[first : first + _TOGETHER]
        stream.sendall(b"".join(HEAD.pack(WANTED, *question) for question in together))
        _receive(stream, sum(pages for _, _, pages in together), take)


def _questions(spans: Sequence[Span]) -> Iterator[tuple[int, int, int]]:
    for space, start, end in spans:
        for address in range(start, end, MOST_PAGES * PAGE):
            yield space, address, min(MOST_PAGES, (end - address) // PAGE)


def _receive(stream: Stream, left: int, take: Callable[[int, int, bytes], None]) -> None:
    """Take in answers for *left* pages."""
    while left > 0:
        kind, space, address, pages = HEAD.unpack(_exactly(stream, HEAD.size))
        if kind not in (DATA, ZEROS) or not 0 < pages <= min(left, MOST_PAGES):
            raise BrokenProtocol(f"answer of kind {kind} for {pages} pages")
        if kind == DATA:
            take(space, address, _exactly(stream, pages * PAGE))
        left -= pages


def _exactly(stream: Stream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise BrokenProtocol("it has ended")
        data += part
    return bytes(data)
