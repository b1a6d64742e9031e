"""Checkpoints of several directories: restored by CRIU, every page is what the process had."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from criu_rpc import BadImages, Notification, Script
from criu_rpc.images import PARENT, check
from criu_rpc.memory_images import PAGE_BYTES, PE_PARENT, PE_PRESENT, read_pagemap, read_vmas
from criu_rpc.pages import check_pages
from criu_rpc.stats import dump_stats
from runtime import Container
from runtime.checkpoint import incremental
from runtime.checkpoint.incremental_chain import check_links
from runtime.checkpoint.options import CheckpointOptions
from runtime.checkpoint.restore import Restore
from runtime.checkpoint.restore_options import RestoreOptions
from runtime.errors import CheckpointFailed, RestoreFailed
from runtime.memory import maps, soft_dirty
from runtime.memory.errors import KeeperFailed
from runtime.memory.keeper import SOCKET, Keeper
from runtime.memory.pagemap import Pagemap
from runtime.memory.runs import size_pages
from runtime.processes import vpid_of
from tests.containers import Box
from tests.waiting import eventually

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_criu,
    pytest.mark.needs_userfaultfd,
]

# It executes what is put into /tmp/do, until that is gone again.
TARGET = """
import ctypes, mmap, os, time
def new(mib):
    return mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
def write(memory, first, pages, word):
    for at in range(first * 4096, (first + pages) * 4096, 4096):
        memory[at:at + 8] = (at + word).to_bytes(8, "little")
def listen(where):
    while True:
        try:
            with open(where) as file:
                line = file.read()
        except FileNotFoundError:
            time.sleep(0.005)
            continue
        exec(line, globals())
        os.unlink(where)
def fork(where):
    if os.fork() == 0:
        listen(where)
libc = ctypes.CDLL(None)
def address(memory):
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
def copy_on_write(pages):
    with open("/tmp/file", "wb") as file:
        file.write(bytes(pages * 4096))
    with open("/tmp/file", "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    write(memory, 0, pages, 7)
    return memory
memory = new(16)
write(memory, 0, 4096, 1)
listen("/tmp/do")
"""
ZEROS = bytes(PAGE_BYTES)
USR = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}


class Target:
    """A container, and its chain of directories below *room*."""

    def __init__(self, box: Box, room: Path) -> None:
        self.box, self.room = box, room
        for name in ("lib", "lib64"):
            (box.bundle.rootfs / name).symlink_to(f"usr/{name}")
        box.update(mounts=[*box.bundle.spec["mounts"], USR])
        # rseq(2): the kernel writes to a thread that stands still where it would go on.
        environment = ["PATH=/usr/bin", "GLIBC_TUNABLES=glibc.pthread.rseq=0"]
        box.program("/usr/bin/python3", "-c", TARGET, env=environment)
        self.container = box.start()
        #: what each process had when it was dumped, by its pid inside: address -> page
        self.had: dict[int, dict[int, bytes]] = {}
        self.do("pass")

    def do(self, line: str, where: str = "do") -> None:
        """Have it execute *line*; a child that it has forked listens elsewhere."""
        tmp = self.box.bundle.rootfs / "tmp"
        (tmp / "new").write_text(line)
        (tmp / "new").rename(tmp / where)
        assert eventually(lambda: not (tmp / where).exists(), 20), "it does not answer"

    def pre_dump(self, name: str, parent: str | None = None) -> incremental.Written:
        options = CheckpointOptions(image_path=self.room / name)
        return incremental.pre_dump(self.container, options, parent and f"../{parent}")

    def checkpoint(self, name: str, parent: str, **options: Any) -> None:
        def on_notify(notification: Notification) -> None:
            if notification.script == Script.POST_DUMP:
                pids = self.container.processes()
                self.had = {vpid_of(pid): contents(pid) for pid in pids}

        request = CheckpointOptions(image_path=self.room / name, **options)
        incremental.checkpoint(self.container, request, f"../{parent}", on_notify=on_notify)
        for vpid in [*self.had]:
            mm = request.image_path / f"mm-{vpid}.img"
            if not mm.exists():  # of a zombie
                del self.had[vpid]
                continue
            # Not among them: where CRIU's own code was, and what the kernel may drop anyway.
            vmas = [vma for vma in read_vmas(mm) if vma.private]
            self.had[vpid] = {
                address: page
                for address, page in self.had[vpid].items()
                if any(vma.start <= address < vma.end for vma in vmas)
            }

    def restore(self, name: str) -> dict[int, dict[int, bytes]]:
        """Restore it, and return what it then has where it had something, before it runs."""
        has: dict[int, dict[int, bytes]] = {}

        def on_notify(notification: Notification) -> None:
            if notification.script == Script.POST_RESTORE:
                container = Container.load(self.box.root, self.box.id)
                for pid in container.processes():
                    vpid = vpid_of(pid)
                    has[vpid] = dict(read(pid, self.had.get(vpid, ())))

        options = RestoreOptions(image_path=self.room / name)
        restore = Restore(self.box.root, self.box.id, self.box.bundle.path, options)
        restore.prepare()
        self.container = restore.run(on_notify)
        return has

    def keeper(self) -> list[int]:
        """Its pids: it is a child of nobody who waits for it."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if self.box.id.encode() in words and any(b"keeper_main" in each for each in words):
                    found.append(int(path.parent.name))
        return found


def contents(pid: int) -> dict[int, bytes]:
    """The private memory that a process can write to."""
    private = [each for each in maps.of_process(pid) if each.write and not each.shared]
    with Pagemap(pid) as pagemap:
        runs = [run[:2] for each in private for run in pagemap.present(each.start, each.end)]
    return dict(read(pid, (page for run in runs for page in range(*run, PAGE_BYTES))))


def read(pid: int, addresses: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for address in addresses:
            yield address, os.pread(mem.fileno(), PAGE_BYTES, address)


def in_images(directory: Path, vpid: int) -> dict[int, bytes]:
    """What a restore from *directory* finds, by the rules of criu/pagemap.c."""
    pages_id, entries = read_pagemap(directory / f"pagemap-{vpid}.img")
    below = (
        in_images(directory / PARENT, vpid)
        if any(each.flags & PE_PARENT for each in entries)
        else {}
    )
    found = {}
    with (directory / f"pages-{pages_id}.img").open("rb") as pages:
        for each in entries:
            for address in range(each.address, each.end, PAGE_BYTES):
                present = each.flags & PE_PRESENT
                found[address] = pages.read(PAGE_BYTES) if present else below[address]
        assert not pages.read(1)
    return found


def unlike(had: dict[int, bytes], has: dict[int, bytes]) -> list[str]:
    """Addresses of pages that differ; what *has* not is a page of zeros.

    A frozen process too comes to have some: khugepaged makes one huge page of what was there and
    what was not.
    """
    return [hex(address) for address, page in had.items() if has.get(address, ZEROS) != page]


def size(directory: Path) -> int:
    return sum(each.stat().st_size for each in directory.glob("pages-*.img"))


@pytest.fixture(autouse=True)
def _tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """By our tracker, also where CRIU could do it."""
    monkeypatch.setattr(incremental, "by_criu", lambda: False)


@pytest.fixture
def target(box: Box, room: Path) -> Iterator[Target]:
    target = Target(box, room)
    yield target
    box.remove_all()
    assert eventually(lambda: not target.keeper()), "the keeper outlives its container"


def test_every_page_is_what_the_process_had(target: Target, room: Path) -> None:
    first = target.pre_dump("pre1")
    assert first.pages >= 4096
    assert first.parent_pages == 0
    target.do("write(memory, 100, 50, 2); more = new(4); write(more, 0, 1024, 3); fork('/tmp/own')")
    second = target.pre_dump("pre2", "pre1")
    assert 1074 <= second.pages < first.pages + 3000  # all of the child, which is new
    assert second.parent_pages > 3500
    told = dump_stats(room / "pre2")
    assert (told.pages_written, told.pages_skipped_parent) == second
    target.do("write(memory, 0, 10, 4); memory.madvise(mmap.MADV_DONTNEED, 4 << 20, 1 << 20)")
    target.do("more.close(); other = new(4); write(other, 512, 512, 5)")
    target.do("write(memory, 2048, 20, 6); cow = copy_on_write(30)", "own")
    target.do(
        "locked = new(1); write(locked, 0, 256, 8); assert not libc.mlock(address(locked), 1 << 20)"
    )
    third = target.pre_dump("pre3", "pre2")
    assert third.pages < 2500
    target.do("write(memory, 1, 3, 7); write(memory, 1100, 2, 8)")
    target.do("write(memory, 3000, 5, 9); last = new(1); write(last, 0, 256, 10)", "own")
    target.do("write(cow, 1, 3, 8)", "own")
    target.do("write(locked, 7, 3, 9); assert not libc.munlock(address(locked), 1 << 20)")
    target.checkpoint("last", "pre3")
    check(room / "last")
    check_pages(room / "last")
    assert (room / "last" / PARENT).readlink() == Path("../pre3")
    for vpid, had in target.had.items():
        assert unlike(had, in_images(room / "last", vpid)) == []
    assert len(target.had) == 2
    assert size(room / "last") < size(room / "pre1") // 2
    has = target.restore("last")
    for vpid, had in target.had.items():
        assert unlike(had, has[vpid]) == []
    target.do("assert memory[4096:4104] == (4096 + 7).to_bytes(8, 'little')")


def test_a_killed_keeper_costs_a_whole_copy_and_nothing_else(target: Target, room: Path) -> None:
    first = target.pre_dump("pre1")
    kill(target)
    target.do("write(memory, 5, 5, 2)")
    second = target.pre_dump("pre2", "pre1")
    assert second.parent_pages == 0
    assert second.pages >= first.pages
    assert target.pre_dump("pre3", "pre2").pages < 500
    kill(target)
    target.do("write(memory, 50, 5, 3)")
    target.checkpoint("last", "pre3")
    assert size(room / "last") >= 4096 * PAGE_BYTES
    assert unlike(target.had[1], in_images(room / "last", 1)) == []
    assert unlike(target.had[1], target.restore("last")[1]) == []


@pytest.mark.vm
def test_where_the_kernel_tells_what_was_written_criu_does_it_all(
    target: Target, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incremental, "by_criu", lambda: True)
    if soft_dirty.unavailable():
        with pytest.raises(CheckpointFailed, match="criu pre-dump failed"):
            target.pre_dump("pre1")
        assert {path.suffix for path in (room / "pre1").iterdir()} <= {".log", ""}
        return
    target.pre_dump("pre1")
    target.do("write(memory, 5, 5, 2)")
    assert target.pre_dump("pre2", "pre1").parent_pages > 3500
    target.do("write(memory, 50, 5, 3)")
    target.checkpoint("last", "pre2")
    assert size(room / "last") < size(room / "pre1") // 2
    check_pages(room / "last")
    assert unlike(target.had[1], target.restore("last")[1]) == []


def kill(target: Target) -> None:
    for pid in target.keeper():
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not target.keeper())


def test_what_a_failed_pre_dump_has_found_is_copied_by_the_next(
    target: Target, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.pre_dump("pre1")
    target.do("write(memory, 200, 30, 2)")
    with monkeypatch.context() as patch:
        patch.setattr("runtime.checkpoint.incremental.write_pagemap", no_space)
        with pytest.raises(CheckpointFailed, match="failed: no space left on device"):
            target.pre_dump("pre2", "pre1")
    assert [path.name for path in (room / "pre2").iterdir()] == []
    assert target.pre_dump("pre2", "pre1").pages < 500
    target.do("write(memory, 300, 30, 3)")
    with pytest.raises(Refused):
        incremental.checkpoint(
            target.container,
            CheckpointOptions(image_path=room / "last"),
            "../pre2",
            on_notify=refuse,
        )
    assert not (room / "last" / PARENT).is_symlink()
    target.do("write(memory, 400, 30, 4)")
    target.checkpoint("last", "pre2")
    assert size(room / "last") < 1000 * PAGE_BYTES + size(room / "pre1") // 2
    assert unlike(target.had[1], in_images(room / "last", 1)) == []
    assert unlike(target.had[1], target.restore("last")[1]) == []


class Refused(Exception):
    pass


def refuse(notification: Notification) -> None:
    if notification.script == Script.POST_DUMP:
        raise Refused


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_directory_that_the_keeper_does_not_know_is_no_base(target: Target, room: Path) -> None:
    target.pre_dump("pre1")
    target.do("write(memory, 0, 4096, 2)")
    target.pre_dump("pre2", "pre1")
    target.do("write(memory, 7, 1, 3)")
    assert target.pre_dump("side", "pre1").parent_pages == 0
    target.checkpoint("last", "pre2", leave_running=True)
    assert unlike(target.had[1], in_images(room / "last", 1)) == []
    assert eventually(lambda: not target.keeper())
    assert not (target.container.dir / SOCKET).exists()
    target.do("write(memory, 7, 1, 3)")


def test_wrong_parents_are_refused_before_anything_is_made(target: Target, room: Path) -> None:
    target.pre_dump("pre1")
    (room / "empty").mkdir()
    other = target.box.start("-other")
    begun = CheckpointOptions(image_path=room / "foreign")
    incremental.pre_dump(other, begun, None)
    other.delete(force=True)
    for parent, image, why in (
        ("nowhere", "pre2", "nowhere: No such file or directory"),
        ("empty", "pre2", "empty: has no inventory.img"),
        ("foreign", "pre2", f"it is of container {other.id}"),
        ("pre1", "pre1", "is part of the chain"),
    ):
        with pytest.raises(CheckpointFailed, match=why):
            target.pre_dump(image, parent)
        with pytest.raises(CheckpointFailed, match=why):
            target.checkpoint(image, parent)
    with pytest.raises(CheckpointFailed, match="has to be relative to the image path"):
        incremental.pre_dump(target.container, begun, str(room / "pre1"))
    assert not (room / "pre2").exists()
    target.do("pass")
    target.checkpoint("last", "pre1")
    target.restore("last")
    with pytest.raises(CheckpointFailed, match="of an earlier run of this container"):
        target.pre_dump("pre2", "pre1")


def test_a_directory_that_was_written_anew_breaks_its_chains(target: Target, room: Path) -> None:
    target.pre_dump("pre1")
    target.pre_dump("pre2", "pre1")
    target.checkpoint("last", "pre2", leave_running=True)
    check_links(room / "last")
    target.pre_dump("pre1")
    with pytest.raises(BadImages, match=r"is not what it was when .*pre2 was written"):
        check_links(room / "last")
    with pytest.raises(CheckpointFailed, match="is not what it was"):
        target.checkpoint("again", "pre2")
    target.checkpoint("other", "pre1")
    with pytest.raises(RestoreFailed, match="is not what it was"):
        target.restore("last")
    target.restore("other")


def test_a_chain_that_lacks_a_directory_or_a_page_is_not_restored(
    target: Target, room: Path
) -> None:
    target.pre_dump("pre1")
    target.checkpoint("last", "pre1")
    pages = next((room / "pre1").glob("pages-*.img"))
    whole = pages.read_bytes()
    pages.write_bytes(whole[:-1])
    with pytest.raises(BadImages, match="cut short"):
        check_pages(room / "last")
    pages.write_bytes(whole)
    (room / "pre1/pagemap-1.img").unlink()
    with pytest.raises(BadImages, match="to its parent, which lacks it"):
        check_pages(room / "last")
    (room / "pre1").rename(room / "gone")
    with pytest.raises(BadImages, match="parent: No such file"):
        check(room / "last")


@pytest.mark.parametrize("kind", ["userfaultfd", "hashes"])
def test_a_keeper_says_what_was_written(target: Target, room: Path, kind: str) -> None:
    with Keeper.start(target.container.dir, kind=kind) as keeper, (room / "pages").open("wb") as to:
        (pid, (dirty, there)), *_ = (keeper.round("") or {}).items()
        assert dirty == there
        assert keeper.copy(pid, dirty, to.fileno()) == dirty
        assert to.seek(0, os.SEEK_END) == size_pages(dirty) * PAGE_BYTES
        keeper.commit("first")
        target.do("write(memory, 40, 5, 2)")
        assert keeper.round("other") is None
    with Keeper.find(target.container.dir) or pytest.fail("it has ended") as keeper:
        (dirty, _) = (keeper.round("first") or {})[pid]
        assert 5 <= size_pages(dirty) < 500
        assert (keeper.final("first") or {})[pid] == dirty
        unfit = os.open("/dev/null", os.O_RDONLY)
        with pytest.raises(KeeperFailed, match="Bad file descriptor"):
            keeper.copy(pid, dirty, unfit)
        os.close(unfit)


BUSY = """
import random, threading
def hammer():
    regions = [new(2) for _ in range(4)]
    while True:
        which = random.randrange(4)
        what = random.random()
        if what < 0.002:
            regions[which].close()
            regions[which] = new(random.choice([1, 2, 3]))
        elif what < 0.004:
            regions[which].madvise(mmap.MADV_DONTNEED)
        elif what < 0.006 and len(regions[which]) < 4 << 20:
            regions[which].resize(len(regions[which]) + (1 << 20))
        elif what < 0.007:
            if os.fork() == 0:
                write(regions[which], 3, 20, 77)
                time.sleep(random.random() / 5)
                os._exit(0)
        else:
            at = random.randrange(len(regions[which]) // 8) * 8
            regions[which][at:at + 8] = random.randbytes(8)
        if what > 0.99:
            time.sleep(0.001)
def reap():
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.01)
threading.Thread(target=hammer).start()
threading.Thread(target=reap).start()
"""


@pytest.mark.vm
def test_memory_that_changes_all_the_time(target: Target, room: Path) -> None:
    target.do(BUSY)
    before = None
    for name in ("pre1", "pre2", "pre3", "pre4"):
        target.pre_dump(name, before)
        before = name
    target.checkpoint("last", "pre4")
    for vpid, had in target.had.items():
        assert unlike(had, in_images(room / "last", vpid)) == []
    check_pages(room / "last")
    has = target.restore("last")
    for vpid, had in target.had.items():
        assert unlike(had, has[vpid]) == []
