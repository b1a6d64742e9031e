"""Image files made whole out of a page store: for a restore that can leave no page to a server.

What a pagemap leaves to one (PE_LAZY) is written where CRIU reads it by itself, between the pages
that are in the image already: in the order of addresses. criu/pagemap.c, images/pagemap.proto.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from criu_rpc.memory_images import (
    PAGE_BYTES,
    PE_LAZY,
    PE_PRESENT,
    PagemapEntry,
    read_pagemap,
    write_pagemap,
)
from runtime.memory.copying import write_all
from runtime.memory.page_table import MISSING, SERVED
from runtime.memory.runs import Run
from runtime.memory.served_pages import ServedPages
from runtime.memory.store_errors import MissingPages

#: added to the number of a pages image, for the one that takes its place
_WHOLE = 1 << 24


def complete(images_dir: Path, spaces: Mapping[str, int], store: ServedPages) -> int:
    """Write what is lazy in *images_dir* out of *store*, which gives it back; how many pages.

    spaces: pid inside -> its space in the store. Raises BadImages, OSError, MissingPages; the
    images are then worthless.
    """
    return sum(_complete_one(images_dir, vpid, space, store) for vpid, space in spaces.items())


def _complete_one(images_dir: Path, vpid: str, space: int, store: ServedPages) -> int:
    path = images_dir / f"pagemap-{int(vpid)}.img"
    pages_id, entries = read_pagemap(path)
    former = images_dir / f"pages-{pages_id}.img"
    whole_id = pages_id + _WHOLE
    found: list[PagemapEntry] = []
    count = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(images_dir / f"pages-{whole_id}.img", flags, 0o644)
    try:
        with former.open("rb") as present:
            for entry in entries:
                if entry.flags & PE_LAZY:
                    count += entry.pages
                    found += _write_stored(fd, space, (entry.address, entry.end), store)
                else:
                    found.append(entry)
                    if entry.flags & PE_PRESENT:
                        _copy(present.fileno(), entry.pages * PAGE_BYTES, fd)
    finally:
        os.close(fd)
    write_pagemap(path, whole_id, found)
    former.unlink()
    return count


def _write_stored(fd: int, space: int, run: Run, store: ServedPages) -> Iterator[PagemapEntry]:
    """Pages of zeros are left out: those of a new mapping are that."""
    for piece in store.pieces(space, *run):
        if piece.source in (MISSING, SERVED):
            raise MissingPages(space, [(piece.start, piece.end)])
        if piece.source is not None:
            size = piece.end - piece.start
            content = (ctypes.c_char * size).from_address(piece.source)
            write_all(fd, memoryview(content).cast("B"))
            yield PagemapEntry(piece.start, size // PAGE_BYTES, PE_PRESENT)
    store.discard(space, *run)


def _copy(source_fd: int, size: int, fd: int) -> None:
    while size:
        data = os.read(source_fd, min(size, 1 << 20))
        if not data:
            raise OSError(errno.EIO, "a pages image is cut short")
        write_all(fd, memoryview(data))
        size -= len(data)
