"""A dump in which CRIU finds no memory, made whole; restored by CRIU, every page is compared."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from criu_rpc import Notification, Script
from criu_rpc.memory_images import (
    PAGE_BYTES,
    PE_LAZY,
    PE_PRESENT,
    read_pagemap,
    read_vmas,
)
from runtime import Container
from runtime.checkpoint.bare_dump import BareCriu, FrozenMemory, complete, stack_pages
from runtime.checkpoint.dump import Checkpoint
from runtime.checkpoint.options import CheckpointOptions
from tests.containers import Box

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_criu]

SIZE = 32 << 20
TARGET = """
import ctypes, mmap, time
memory = mmap.mmap(-1, {size}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, {size}, 4096):
    memory[at:at + 8] = at.to_bytes(8, "little")
libc = ctypes.CDLL(None)
guarded = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(guarded))
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
has_guard = libc.madvise(address, 4096, 102) == 0
where = ctypes.addressof(ctypes.c_char.from_buffer(memory))
with open("/tmp/where.new", "w") as file:
    file.write(f"{{where}} {{address if has_guard else 0}}")
import os
os.rename("/tmp/where.new", "/tmp/where")
time.sleep(1000)
"""
USR = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}


class Target(NamedTuple):
    """A container whose one process has memory that it knows."""

    container: Container
    #: where that is, and where a guard page is, or 0
    where: int
    guard: int

    @property
    def pid(self) -> int:
        return self.container.state.init_pid


@pytest.fixture
def target(box: Box) -> Target:
    for name in ("lib", "lib64"):
        (box.bundle.rootfs / name).symlink_to(f"usr/{name}")
    box.update(mounts=[*box.bundle.spec["mounts"], USR])
    box.program("/usr/bin/python3", "-c", TARGET.format(size=SIZE))
    container = box.start()
    told = box.bundle.rootfs / "tmp/where"
    deadline = time.monotonic() + 20
    while not told.exists():
        assert time.monotonic() < deadline, "it has not started"
        time.sleep(0.01)
    where, guard = map(int, told.read_text().split())
    return Target(container, where, guard)


def dump(target: Target, images: Path, *, bare: bool) -> list[tuple[int, int]]:
    """Dump it and let it run on; the runs that were left out."""
    lazy: dict[int, list[tuple[int, int]]] = {}
    options = CheckpointOptions(image_path=images, leave_running=True)
    with BareCriu.start() as criu:
        memory = []

        def on_notify(notification: Notification) -> None:
            if notification.script == Script.QUERY_EXT_FILES and bare:
                criu.hide([target.pid])
                memory.append(FrozenMemory.of(target.pid, stack_pages(target.pid)))
            if notification.script == Script.POST_DUMP and bare:
                lazy.update(complete(images, memory))

        Checkpoint(target.container, options).run(on_notify, criu=criu.criu)
    return lazy.get(target.pid, [])


def decoys() -> list[str]:
    """Ours are children of nobody who waits for them: found by what they run, for this test."""
    ours = os.environb[b"PYTEST_CURRENT_TEST"]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"runtime.process.dumping" in (process / "cmdline").read_bytes():
                found += [process.name] if ours in (process / "environ").read_bytes() else []
    return found


def contents(images: Path) -> dict[int, bytes]:
    """Address -> page, of those that are in the images."""
    pages_id, entries = read_pagemap(images / "pagemap-1.img")
    data, found, at = (images / f"pages-{pages_id}.img").read_bytes(), {}, 0
    for entry in entries:
        if entry.flags & PE_PRESENT:
            for page in range(entry.pages):
                found[entry.address + page * PAGE_BYTES] = data[at : at + PAGE_BYTES]
                at += PAGE_BYTES
    assert at == len(data), "more pages than the pagemap says"
    return found


def test_the_images_and_what_was_left_out_are_what_criu_would_dump(
    target: Target, tmp_path: Path
) -> None:
    dump(target, tmp_path / "whole", bare=False)  # first: CRIU leaves its traces in a code page
    lazy = dump(target, tmp_path / "bare", bare=True)
    whole, bare = contents(tmp_path / "whole"), contents(tmp_path / "bare")
    left_out = {page for start, end in lazy for page in range(start, end, PAGE_BYTES)}
    assert left_out.isdisjoint(bare)
    assert [hex(page) for page in sorted((left_out | bare.keys()) ^ whole.keys())] == []
    assert left_out >= set(range(target.where, target.where + SIZE, PAGE_BYTES))
    assert all(whole[address] == page for address, page in bare.items())
    _, theirs = read_pagemap(tmp_path / "whole" / "pagemap-1.img")
    _, ours = read_pagemap(tmp_path / "bare" / "pagemap-1.img")
    assert marked(ours) < marked(theirs)
    assert len(marked(theirs) - marked(ours)) == 1, "all but the page of the one thread's stack"
    size = sum(each.stat().st_size for each in (tmp_path / "bare").glob("pages-*.img"))
    assert size < SIZE // 4


def marked(entries: list) -> set[int]:
    return {
        entry.address + page * PAGE_BYTES
        for entry in entries
        if entry.flags & PE_LAZY
        for page in range(entry.pages)
    }


def test_guard_regions_are_in_the_images(target: Target, tmp_path: Path) -> None:
    dump(target, tmp_path / "bare", bare=True)
    dump(target, tmp_path / "whole", bare=False)
    bare, whole = (read_vmas(tmp_path / kind / "mm-1.img") for kind in ("bare", "whole"))
    assert bare == whole
    if target.guard:
        assert [(vma.start, vma.end) for vma in bare][-1] == (
            target.guard,
            target.guard + PAGE_BYTES,
        )


def test_the_decoy_ends_with_us(target: Target, tmp_path: Path) -> None:
    with BareCriu.start():
        assert decoys()
    dump(target, tmp_path / "bare", bare=True)
    deadline = time.monotonic() + 5
    while decoys():
        assert time.monotonic() < deadline, decoys()
