"""Image files that are made whole out of a page store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from criu_rpc.memory_images import (
    PAGE_BYTES,
    PE_LAZY,
    PE_PRESENT,
    PagemapEntry,
    read_pagemap,
    write_pagemap,
)
from runtime.memory import eager_images
from runtime.memory.store import SERVED, PageStore
from runtime.memory.store_errors import MissingPages

AT = 0x1000_0000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PageStore]:
    directory = tmp_path / "store"
    directory.mkdir()
    with PageStore.create(directory, 64 << 20) as store:
        yield store


def page(number: int) -> bytes:
    return bytes([number]) * PAGE_BYTES


def images(tmp_path: Path) -> Path:
    """Page 0 lies in the image, 1 to 5 are lazy, 6 lies in the image."""
    found = tmp_path / "images"
    found.mkdir()
    entries = [
        PagemapEntry(AT, 1, PE_PRESENT),
        PagemapEntry(AT + PAGE_BYTES, 5, PE_LAZY),
        PagemapEntry(AT + 6 * PAGE_BYTES, 1, PE_PRESENT),
    ]
    write_pagemap(found / "pagemap-1.img", 7, entries)
    (found / "pages-7.img").write_bytes(page(100) + page(106))
    return found


def test_pages_come_in_the_order_of_addresses_and_zeros_not_at_all(
    tmp_path: Path, store: PageStore
) -> None:
    directory = images(tmp_path)
    for number in (1, 2, 4, 5):
        store.put(9, AT + number * PAGE_BYTES, page(100 + number))
    store.zero(9, AT + 3 * PAGE_BYTES, 1)
    assert eager_images.complete(directory, {"1": 9}, store) == 5
    pages_id, entries = read_pagemap(directory / "pagemap-1.img")
    there = [
        (at - AT) // PAGE_BYTES
        for address, pages, flags in entries
        for at in range(address, address + pages * PAGE_BYTES, PAGE_BYTES)
        if flags == PE_PRESENT
    ]
    assert there == [0, 1, 2, 4, 5, 6]
    content = b"".join(page(100 + number) for number in there)
    assert (directory / f"pages-{pages_id}.img").read_bytes() == content
    assert not (directory / "pages-7.img").exists()
    pieces = store.pieces(9, AT + PAGE_BYTES, AT + 6 * PAGE_BYTES)
    assert {piece.source for piece in pieces} == {SERVED}, "its memory is given back"


def test_a_page_that_is_not_there_is_an_error(tmp_path: Path, store: PageStore) -> None:
    directory = images(tmp_path)
    store.put(9, AT + PAGE_BYTES, page(1))
    with pytest.raises(MissingPages, match="16 KiB of address space 9 are missing"):
        eager_images.complete(directory, {"1": 9}, store)
