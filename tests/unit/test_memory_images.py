"""CRIU's memory images, written and read again."""

from pathlib import Path

import pytest

from criu_rpc import BadImages
from criu_rpc.memory_images import (
    PAGE_BYTES,
    PE_LAZY,
    PE_PRESENT,
    PagemapEntry,
    Vma,
    read_pagemap,
    read_vmas,
    write_pagemap,
)

# VMA_AREA_REGULAR with what else a mapping is (criu/include/image.h)
ANONYMOUS, FILE, SHARED_FILE = 0x201, 0x41, 0x81
VDSO, VVAR, VSYSCALL, GUARD = 0x209, 0x1201, 0x204, 1 << 16
PRIVATE, ANON, LOCKED, HUGE, DROPPABLE = 0x02, 0x20, 0x2000, 0x40000, 0x08


def test_a_pagemap_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    entries = [
        PagemapEntry(0x7000_0000, 3, PE_LAZY),
        PagemapEntry(0x7000_0000 + 3 * PAGE_BYTES, 1, PE_PRESENT),
        PagemapEntry(0x7FFF_FFFF_0000, 1 << 33, PE_LAZY),
    ]
    write_pagemap(path, 77, entries)
    assert read_pagemap(path) == (77, entries)


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"\x19\x43\x56\x54\x25\x40\x08\x56\xff\xff\0\0x"]
)
def test_what_is_no_pagemap_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "pagemap-1.img"
    path.write_bytes(data)
    with pytest.raises(BadImages, match=r"pagemap-1\.img"):
        read_pagemap(path)


def test_what_is_no_address_space_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mm-1.img"
    path.write_bytes(b"nonsense")
    with pytest.raises(BadImages, match=r"mm-1\.img"):
        read_vmas(path)


@pytest.mark.parametrize(
    ("flags", "status", "private", "lazy"),
    [
        (PRIVATE | ANON, ANONYMOUS, True, True),
        (PRIVATE | ANON | LOCKED, ANONYMOUS, True, False),
        (PRIVATE | ANON | HUGE, ANONYMOUS, True, False),
        (ANON | DROPPABLE, ANONYMOUS, False, False),
        (PRIVATE, FILE, True, False),
        (0x01, SHARED_FILE, False, False),
        (PRIVATE | ANON, VDSO, True, False),
        (PRIVATE | ANON, VVAR, False, False),
        (PRIVATE | ANON, VSYSCALL, False, False),
        (0, GUARD, False, False),
    ],
)
def test_a_mapping_says_who_restores_it(flags: int, status: int, private: bool, lazy: bool) -> None:
    vma = Vma(0, PAGE_BYTES, flags, status)
    assert (vma.private, vma.lazy) == (private, lazy)
