"""Images on two hosts, with the pages on one: who needs which, and what is brought before."""

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from criu_rpc.errors import BadImages
from criu_rpc.images import write_inventory
from criu_rpc.memory_images import PE_PRESENT, PagemapEntry, write_pagemap
from migrator.pages.connection import Address
from runtime.memory.lazy.brought_files import BroughtFiles, fetch_pages
from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.page_protocol import BrokenProtocol, serve_pages
from runtime.memory.lazy.split_images import FILES, StoredPages, identity, read_split
from tests.unit.test_lazy_images import BELOW, HERE, write

pytestmark = pytest.mark.needs_criu


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """An incremental dump of a process, with pages of a file and shared memory."""
    (tmp_path / "there").mkdir()
    write(tmp_path / "there/base", 4, (1, 4, HERE), (9, 1, PE_PRESENT), mark=100)
    top = tmp_path / "there/top"
    write(top, 4, (1, 2, BELOW), (3, 2, HERE), (8, 2, PE_PRESENT), (20, 200, PE_PRESENT))
    (top / "parent").symlink_to("../base")
    write_pagemap(top / "pagemap-shmem-7.img", 9, [PagemapEntry(0, 3, PE_PRESENT)])
    (top / "pages-9.img").write_bytes(bytes(PAGE) + b"s" * 2 * PAGE)
    for each in (top, tmp_path / "there/base"):
        write_inventory(each)
    return top


@pytest.fixture
def here(there: Path, tmp_path: Path) -> Path:
    absent = shutil.ignore_patterns("pages-*")
    shutil.copytree(there.parent, tmp_path / "here", symlinks=True, ignore=absent)
    return tmp_path / "here/top"


@contextmanager
def served(pages: StoredPages) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            serve_pages(theirs, pages.read, lambda: False)

    thread = threading.Thread(target=serve)
    thread.start()
    with ours:
        yield ours
    thread.join()


def test_both_hosts_know_that_they_have_the_same_images(there: Path, here: Path) -> None:
    assert identity(there) == identity(here)
    (here / "parent/inventory.img").write_bytes(b"of another dump")
    assert identity(there) != identity(here)


def test_what_criu_reads_by_itself_is_brought_and_the_rest_is_holes(
    there: Path, here: Path
) -> None:
    images = read_split(here)
    assert images.lazy == {4: [(PAGE, 3 * PAGE), (3 * PAGE, 5 * PAGE)]}
    with StoredPages(there) as pages, BroughtFiles(images) as files:
        with served(pages) as stream:
            files.fetch(stream)
        assert (here / "pages-9.img").read_bytes() == (there / "pages-9.img").read_bytes()
        lazy, whole = (here / "pages-4.img").read_bytes(), (there / "pages-4.img").read_bytes()
        assert lazy[: 2 * PAGE] == bytes(2 * PAGE)
        assert lazy[2 * PAGE :] == whole[2 * PAGE :]
        base = (here / "parent/pages-4.img").read_bytes()
        assert base == bytes(5 * PAGE)
    assert not list(here.parent.rglob("*pages-*"))


def test_lazy_pages_come_from_wherever_they_lie_in_the_chain(there: Path) -> None:
    got: dict[int, bytes] = {}
    with StoredPages(there) as pages, served(pages) as stream:
        fetch_pages(stream, [(4, PAGE, 5 * PAGE)], lambda _, at, data: got.update({at: data}))
    assert b"".join(got[at] for at in sorted(got))[::PAGE] == bytes([101, 102, 3, 4])


def test_questions_for_what_is_in_no_image_are_answered_with_the_end(there: Path) -> None:
    with StoredPages(there) as pages:
        with pytest.raises(BrokenProtocol):
            pages.read(FILES + 3, 0, PAGE)
        assert pages.read(5, PAGE, 2 * PAGE) == b""
        assert len(pages.read(4, 4 * PAGE, 6 * PAGE)) == PAGE


def test_pages_that_are_here_are_not_written_over(there: Path) -> None:
    with pytest.raises(BadImages, match="is here already"):
        BroughtFiles(read_split(there))
    (there / "pages-9.img").write_bytes(b"")
    with pytest.raises(BadImages, match="is cut short"):
        StoredPages(there)


def test_addresses_are_read_and_told() -> None:
    assert Address.parse("10.0.0.1:70") == Address("10.0.0.1", 70)
    assert str(Address.parse("[fd00::1]:70")) == "[fd00::1]:70"
    assert Address.parse("[::1]:0").is_local
    assert not Address.parse("example.org:1").is_local
    for wrong in ("10.0.0.1", "fd00::1:70", ":70", "a:70000", "a:b"):
        with pytest.raises(ValueError, match="is no"):
            Address.parse(wrong)
