"""Our lazy-pages server behind the real CRIU: every page of a restored tree is what it was."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from criu_rpc import Criu, DumpOptions, Notification, RestoreOptions, Script, find_criu
from criu_rpc.memory_images import (
    PE_LAZY,
    PE_PARENT,
    PE_PRESENT,
    PagemapEntry,
    read_pagemap,
    write_pagemap,
)
from runtime.memory.lazy.images import read_images
from runtime.memory.lazy.launch import LazyPages
from runtime.syscalls import prctl
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_criu, pytest.mark.needs_userfaultfd]

PR_SET_CHILD_SUBREAPER = 36
PAGE = os.sysconf("SC_PAGE_SIZE")
RESTORE = ["restore", "-o", "restore.log", "--lazy-pages", "-d"]
MIGRATOR = Path(sys.executable).with_name("migrator")

# Two processes with the same memory, in part written since; each checks all of it when told to.
TREE = """
import hashlib, mmap, os, random, sys, time
room = sys.argv[1]
memory = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(memory), 4096):
    if at // 4096 % 5:
        memory[at:at + 16] = random.randbytes(16)
child = os.fork()
name = "child" if child == 0 else "parent"
for at in range(0, len(memory), 4096 * 11):
    memory[at:at + 5] = name[:5].encode()
digest = hashlib.sha256(memory).hexdigest()
with open(f"{room}/{name}", "w") as file:
    file.write(str(os.getpid()))
os.rename(f"{room}/{name}", f"{room}/{name}.ready")
while not os.path.exists(f"{room}/go"):
    time.sleep(0.005)
whole = hashlib.sha256(memory).hexdigest() == digest
with open(f"{room}/{name}.new", "w") as file:
    file.write(str(whole))
os.rename(f"{room}/{name}.new", f"{room}/{name}.whole")
while True:
    time.sleep(0.1)
"""


class Tree:
    """Two processes, dumped; what they say of their memory once they are restored."""

    def __init__(self, room: Path) -> None:
        self.room, self.images = room, room / "images"
        self.images.mkdir()
        # Both must be gone for good before their pids can be had again.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", TREE, str(room)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert eventually(lambda: len(list(room.glob("*.ready"))) == 2)
        self.grandchild = int((room / "child.ready").read_text())

    def dump(self) -> None:
        with Criu.start() as criu:
            criu.dump(DumpOptions(pid=self.child.pid, images_dir=self.images))
        self._reap()

    def _reap(self) -> None:
        for pid in (self.child.pid, self.grandchild):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def whole(self) -> dict[str, str]:
        """What each says; all of them have to."""
        (self.room / "go").touch()
        assert eventually(lambda: len(list(self.room.glob("*.whole"))) == 2)
        return {path.stem: path.read_text() for path in self.room.glob("*.whole")}

    def sweep(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self._reap()
        self.child.poll()
        prctl(PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture
def tree(room: Path) -> Iterator[Tree]:
    tree = Tree(room)
    yield tree
    tree.sweep()


def restore(tree: Tree, images: Path | None = None) -> None:
    done = subprocess.run(
        [find_criu(), *RESTORE, "-D", images or tree.images, "-v4"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    log = (images or tree.images) / "restore.log"
    assert not done.returncode, log.read_text()[-2000:]


WHOLE = {"parent": "True", "child": "True"}


def test_the_command_serves_a_restore_of_criu(tree: Tree) -> None:
    tree.dump()
    ready, ready_in = os.pipe()
    command = [MIGRATOR, "lazy-pages", "-D", tree.images, "--status-fd", str(ready_in)]
    with subprocess.Popen(command, pass_fds=[ready_in]) as server:
        os.close(ready_in)
        assert os.read(ready, 1) == b"\0"
        restore(tree)
        assert tree.whole() == WHOLE
        assert server.wait(20) == 0
    os.close(ready)


def test_every_page_is_right_though_servers_are_killed_from_the_first_message_on(
    tree: Tree,
) -> None:
    tree.dump()
    images = read_images(tree.images)
    chance, killed, last = random.Random(1), 0, 0
    with LazyPages.start(tree.images, images.plan, expected=images.expected) as lazy:
        lazy.load(images.lazy)
        assert eventually(lambda: all(lazy.pids))
        criu = subprocess.Popen([find_criu(), *RESTORE, "-D", tree.images])
        (tree.room / "go").touch()
        while lazy.progress.status not in ("done", "failed"):
            server, twin = lazy.pids
            if server and twin and server != twin and last not in (server, twin):
                last = (server, twin)[killed % 2]
                os.kill(last, signal.SIGKILL)
                killed += 1
            time.sleep(chance.uniform(0, 0.003))
        assert criu.wait(20) == 0
        assert lazy.wait(20)
        assert tree.whole() == WHOLE
        assert killed > 5


def test_all_pages_are_there_before_the_tree_runs(tree: Tree) -> None:
    """Criu holds the restore at post-restore: mappings are registered and in place by then."""
    tree.dump()
    images = read_images(tree.images)
    missing = []
    with LazyPages.start(tree.images, images.plan, expected=images.expected) as lazy:
        lazy.load(images.lazy)

        def fill(event: Notification) -> None:
            if event.script == Script.POST_RESTORE:
                assert lazy.fill(20)
                missing.append(lazy.missing_pages())

        with Criu.start() as criu:
            criu.restore(
                RestoreOptions(images_dir=tree.images, lazy_pages=True, rst_sibling=False), fill
            )
        assert missing == [0]
        assert lazy.wait(20)
        assert lazy.progress.filled_pages == lazy.progress.total_pages
        assert tree.whole() == WHOLE


def test_pages_come_from_a_chain_of_image_directories(tree: Tree) -> None:
    """As an incremental dump has it, but for its pages in the parent: they are lazy too."""
    tree.dump()
    top = tree.room / "top"
    top.mkdir()
    for path in tree.images.iterdir():
        if not path.name.startswith(("pages-", "pagemap-")):
            (top / path.name).write_bytes(path.read_bytes())
    (top / "parent").symlink_to("../images")
    for path in tree.images.glob("pagemap-*.img"):
        divide(path, top)
    images = read_images(top)
    assert len(images.files) == 4
    with LazyPages.start(top, images.plan, expected=images.expected) as lazy:
        lazy.load(images.lazy)
        restore(tree, top)
        assert tree.whole() == WHOLE
        assert lazy.wait(20)


def divide(path: Path, top: Path) -> None:
    """Leave every second run of lazy pages to the parent directory."""
    pages_id, entries = read_pagemap(path)
    pages = path.parent / f"pages-{pages_id}.img"
    kept, offset = [], 0
    with pages.open("rb") as whole, (top / pages.name).open("wb") as part:
        for number, (address, count, flags) in enumerate(pieces(entries)):
            whole.seek(offset)
            data = whole.read(count * PAGE if flags & PE_PRESENT else 0)
            offset += len(data)
            if flags == PE_LAZY | PE_PRESENT and number % 2:
                flags = PE_LAZY | PE_PARENT
            else:
                part.write(data)
            kept.append(PagemapEntry(address, count, flags))
    write_pagemap(top / path.name, pages_id, kept)


def pieces(entries: list[PagemapEntry]) -> Iterator[tuple[int, int, int]]:
    for address, pages, flags in entries:
        for first in range(0, pages, 100):
            yield address + first * PAGE, min(100, pages - first), flags
