"""What is lazy in image directories, and in which file of a chain it lies."""

from pathlib import Path

import pytest

from criu_rpc.errors import BadImages
from criu_rpc.memory_images import PE_LAZY, PE_PARENT, PE_PRESENT, PagemapEntry, write_pagemap
from runtime.memory.lazy.images import read_images
from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.local_pages import ImagePages, NoSuchPage

HERE = PE_LAZY | PE_PRESENT
BELOW = PE_LAZY | PE_PARENT
pytestmark = pytest.mark.needs_criu


def write(directory: Path, pid: int, *entries: tuple[int, int, int], mark: int = 0) -> None:
    """Entries (page, pages, flags); each page is full of its number and *mark*."""
    directory.mkdir(exist_ok=True)
    listed = [PagemapEntry(page * PAGE, pages, flags) for page, pages, flags in entries]
    write_pagemap(directory / f"pagemap-{pid}.img", pid, listed)
    with (directory / f"pages-{pid}.img").open("wb") as file:
        for page, pages, flags in entries:
            if flags & PE_PRESENT:
                for number in range(page, page + pages):
                    file.write(bytes([number + mark]) * PAGE)


def contents(directory: Path, pid: int) -> dict[int, int]:
    """Page -> the byte that it is full of, of all that is lazy."""
    images = read_images(directory)
    return {
        start // PAGE + number: Path(images.files[file]).read_bytes()[offset + number * PAGE]
        for start, end, file, offset in images.extents[pid]
        for number in range((end - start) // PAGE)
    }


def test_only_lazy_pages_are_served_and_others_are_stepped_over(tmp_path: Path) -> None:
    write(tmp_path / "top", 4, (1, 2, HERE), (5, 3, PE_PRESENT), (20, 2, HERE))
    assert contents(tmp_path / "top", 4) == {1: 1, 2: 2, 20: 20, 21: 21}
    assert read_images(tmp_path / "top").lazy == {
        4: [(PAGE, 3 * PAGE), (20 * PAGE, 22 * PAGE)],
    }


def test_pages_are_found_in_parents_of_parents(tmp_path: Path) -> None:
    write(tmp_path / "a", 4, (0, 10, HERE), mark=100)
    write(tmp_path / "b", 4, (0, 2, BELOW), (2, 3, HERE), (5, 5, PE_PARENT), mark=50)
    write(tmp_path / "c", 4, (0, 4, BELOW), (4, 1, HERE), (5, 2, BELOW), (8, 1, PE_PARENT))
    (tmp_path / "b/parent").symlink_to("../a")
    (tmp_path / "c/parent").symlink_to("../b")
    assert contents(tmp_path / "c", 4) == {0: 100, 1: 101, 2: 52, 3: 53, 4: 4, 5: 105, 6: 106}


def test_pages_that_are_nowhere_are_named(tmp_path: Path) -> None:
    write(tmp_path / "top", 4, (1, 2, PE_LAZY))
    with pytest.raises(BadImages, match="has left page 0x1000 to a page server"):
        read_images(tmp_path / "top")
    write(tmp_path / "top", 4, (1, 2, BELOW))
    with pytest.raises(BadImages, match="has left page 0x1000 to its parent"):
        read_images(tmp_path / "top")
    with pytest.raises(BadImages, match="has no image of a process's memory"):
        read_images(tmp_path)


def test_pieces_of_images_do_not_cross_from_one_file_to_the_next(tmp_path: Path) -> None:
    write(tmp_path / "top", 4, (1, 2, HERE), (3, 2, HERE))
    images = read_images(tmp_path / "top")
    assert images.extents[4] == [(PAGE, 5 * PAGE, 0, 0)]
    pages = ImagePages(images.files * 2, {4: [(0, PAGE, 0, PAGE), (PAGE, 3 * PAGE, 1, 0)]})
    found = list(pages.pieces(4, 0, 2 * PAGE))
    assert [(piece.start, piece.end) for piece in found] == [(0, PAGE), (PAGE, 2 * PAGE)]
    with pytest.raises(NoSuchPage, match="page 0x3000 of process 4 is in no image"):
        list(pages.pieces(4, 2 * PAGE, 4 * PAGE))
