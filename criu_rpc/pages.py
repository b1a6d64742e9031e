"""Whether the memory images are whole: pages-*.img against what pagemap-*.img says is in them.

CRIU does not look: a page that should be there and is not has its restorer read for ever.
images/pagemap.proto, criu/include/pagemap.h.
"""

from collections import Counter
from pathlib import Path

from criu_rpc.errors import BadImages
from criu_rpc.images import PARENT
from criu_rpc.memory_images import (
    PAGE_BYTES,
    PE_PARENT,
    PE_PRESENT,
    PagemapEntry,
    read_pagemap,
)


def check_pages(images_dir: Path) -> None:
    """Raise BadImages when memory is missing from *images_dir*, or from a parent that has it.

    Reads every pagemap of the chain, which must have an end (criu_rpc.images.chain).
    """
    needed: Counter[int] = Counter()
    for path in sorted(images_dir.glob("pagemap-*.img")):
        pages_id, entries = read_pagemap(path)
        needed[pages_id] += sum(each.pages for each in entries if each.flags & PE_PRESENT)
        _check_parent(path, [each for each in entries if each.flags & PE_PARENT])
    for pages_id, count in needed.items():
        path = images_dir / f"pages-{pages_id}.img"
        size = path.stat().st_size if path.exists() else 0
        if size < count * PAGE_BYTES:
            raise BadImages(path, f"is cut short: has {size} of {count * PAGE_BYTES} bytes")
    if (images_dir / PARENT).exists():
        check_pages(images_dir / PARENT)


def _check_parent(path: Path, entries: list[PagemapEntry]) -> None:
    """That the parent's pagemap of this process has the pages of *entries*."""
    if not entries:
        return
    there = path.parent / PARENT / path.name
    has = read_pagemap(there)[1] if there.exists() else []
    at = 0
    for entry in entries:
        address = entry.address
        while address < entry.end:
            while at < len(has) and has[at].end <= address:
                at += 1
            if at == len(has) or has[at].address > address:
                raise BadImages(path, f"has left page {address:#x} to its parent, which lacks it")
            address = has[at].end
