"""Whether the memory images are whole: pages-*.img against what pagemap-*.img says is in them.

CRIU does not look: a page that should be there and is not has its restorer read for ever.
images/pagemap.proto, criu/include/pagemap.h.
"""

import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from criu_rpc import proto
from criu_rpc.errors import BadImages

_MAGIC = struct.pack("<II", 0x54564319, 0x56084025)
_SIZE = struct.Struct("<I")
_PRESENT = 4  # PE_PRESENT: the page's content is in the image
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def check_pages(images_dir: Path) -> None:
    """Raise BadImages when memory is missing from *images_dir*; reads every pagemap."""
    needed: Counter[int] = Counter()
    for path in sorted(images_dir.glob("pagemap-*.img")):
        pages_id, count = _present_pages(path)
        needed[pages_id] += count
    for pages_id, count in needed.items():
        path = images_dir / f"pages-{pages_id}.img"
        size = path.stat().st_size if path.exists() else 0
        if size < count * _PAGE_BYTES:
            raise BadImages(path, f"is cut short: has {size} of {count * _PAGE_BYTES} bytes")


def _present_pages(path: Path) -> tuple[int, int]:
    """The number of the pages image, and how many pages are in it for this pagemap."""
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - lazy: 30 ms

    messages = proto.pagemap()
    try:
        head, *entries = _entries(path)
        pages_id = messages.pagemap_head.FromString(head).pages_id
        parsed = [messages.pagemap_entry.FromString(entry) for entry in entries]
    except (DecodeError, ValueError, struct.error) as error:
        raise BadImages(path, f"is damaged: {error}") from error
    present = (entry for entry in parsed if entry.flags & _PRESENT)
    return pages_id, sum(entry.nr_pages or entry.compat_nr_pages for entry in present)


def _entries(path: Path) -> Iterator[bytes]:
    data = memoryview(path.read_bytes())
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it is not an image of this kind")
    data = data[len(_MAGIC) :]
    while data:
        (size,) = _SIZE.unpack_from(data)
        entry = data[_SIZE.size : _SIZE.size + size]
        if len(entry) < size:
            raise ValueError("it ends too early")
        yield bytes(entry)
        data = data[_SIZE.size + size :]
