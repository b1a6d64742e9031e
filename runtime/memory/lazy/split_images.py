"""Image directories whose pages lie on another host, while all other images lie on both.

What CRIU leaves to a lazy-pages server is asked for by process and address. What it reads by itself
even then (shared memory, private pages of files: all but PE_LAZY) is asked for by pages image and
offset: such an image is a space of its own, of a number from FILES on.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from criu_rpc.errors import BadImages
from criu_rpc.images import PARENT
from criu_rpc.pages import check_pages
from runtime.memory.lazy.images import Pagemap, Run, read_images
from runtime.memory.lazy.local_pages import Extent
from runtime.memory.lazy.page_protocol import BrokenProtocol

#: no process has such a pid (linux/threads.h: PID_MAX_LIMIT)
FILES = 1 << 31
#: images that tell one dump from another: when it was, its registers, where its memory lies
_TELLING = ("inventory.img", "core-*.img", "pagemap-*.img")

Span = tuple[int, int, int]


def identity(directory: Path) -> str:
    """The same for two directories with the same images, whether their pages are there or not.

    Raises BadImages, OSError.
    """
    digest = hashlib.sha256()
    for depth, each in enumerate(_chain(directory)):
        for pattern in _TELLING:
            for path in sorted(each.glob(pattern)):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{depth} {path.name} {content}\n".encode())
    return digest.hexdigest()


def _chain(directory: Path) -> list[Path]:
    """As criu_rpc.images has it, of a directory that servers may be at work in."""
    found = [directory]
    while (below := found[-1] / PARENT).exists():
        if any(below.samefile(each) for each in found):
            raise BadImages(directory, "has a chain of parents without an end")
        found.append(below)
    return found


def pages_images(directory: Path) -> dict[Path, int]:
    """Every pages-*.img of the chain and its size in bytes, in an order that all hosts agree on."""
    sizes: dict[Path, int] = {}
    for each in _chain(directory.absolute()):
        for path in sorted(each.glob("pagemap-*.img")):
            pagemap = Pagemap(path, {})
            file = Path(pagemap.file)
            sizes[file] = sizes.get(file, 0) + pagemap.present_bytes
    return sizes


@dataclass(frozen=True, slots=True)
class SplitImages:
    """What a lazy restore needs from the other host.

    lazy: by pid, for the lazy-pages server; eager: what has to be here before, by pages image.
    """

    sizes: dict[Path, int]
    lazy: dict[int, list[Run]]
    eager: list[Span]

    @property
    def expected(self) -> dict[int, int]:
        """For LazyPages.start: a space for each process, of the same number."""
        return {pid: pid for pid in self.lazy}


def read_split(directory: Path) -> SplitImages:
    """Of *directory*, where the pages are not. Raises BadImages, OSError."""
    sizes = pages_images(directory)
    space_of = {str(path): FILES + number for number, path in enumerate(sizes)}
    lazy, eager = {}, []
    for path in sorted(directory.absolute().glob("pagemap-*.img")):
        files: dict[str, int] = {}
        pagemap = Pagemap(path, files)
        pid = path.stem.removeprefix("pagemap-")
        if pid.isdecimal():
            lazy[int(pid)] = pagemap.lazy_runs()
        extents = list(pagemap.eager())
        names = list(files)
        for start, end, file, offset in extents:
            eager.append((space_of[names[file]], offset, offset + end - start))
    return SplitImages(sizes, lazy, eager)


class StoredPages:
    """The other host's side: reads any page of a whole image directory; context manager."""

    def __init__(self, directory: Path) -> None:
        """Raises BadImages for pages that are not here, OSError."""
        self.identity = identity(directory)
        check_pages(directory)
        images = read_images(directory.absolute())
        sizes = pages_images(directory)
        self._of_files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in sizes]
        fds = dict(zip(map(str, sizes), self._of_files, strict=True))
        self._fds = [fds[name] for name in images.files]
        self._extents = images.extents

    def read(self, space: int, start: int, end: int) -> bytes:
        """For serve_pages. Raises BrokenProtocol for what is in no image, OSError."""
        if space >= FILES:
            if space - FILES >= len(self._of_files):
                raise BrokenProtocol(f"a question for file {space - FILES}")
            return os.pread(self._of_files[space - FILES], end - start, start)
        return b"".join(
            os.pread(self._fds[file], high - low, offset)
            for low, high, file, offset in self._within(space, start, end)
        )

    def _within(self, space: int, start: int, end: int) -> list[Extent]:
        extents = self._extents.get(space, [])
        at = max(bisect_right(extents, start, key=lambda each: each[0]) - 1, 0)
        found = []
        while at < len(extents) and extents[at][0] < end:
            low, high, file, offset = extents[at]
            first, last = max(low, start), min(high, end)
            if first < last:
                found.append((first, last, file, offset + first - low))
            at += 1
        return found

    def close(self) -> None:
        """Let go of the files."""
        for fd in self._of_files:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
