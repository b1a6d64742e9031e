"""The memory of a container on its way in: a page store, and the server that fills it from there.

Store and image files lie in one directory. The server has all that it needs open and mapped when
the restore begins: the directory may then go, and the agent may end; what was filled is given back.
"""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from criu_rpc.logger import Logger
from criu_rpc.memory_images import PE_LAZY, load, read_pagemap
from migrator.errors import MigrationError, ProtocolError
from migrator.messages import RESTORE_TIMEOUT_S, Filled
from migrator.pages.receiver import Receiver
from runtime.memory import eager_images
from runtime.memory.lazy.launch import LazyPages
from runtime.memory.leaves import ADDRESS_LIMIT
from runtime.memory.runs import Run
from runtime.memory.store import PageStore
from runtime.memory.store_errors import StoreError

logger = Logger(__name__)

STORE = "pages"
#: criu's working directory, where it looks for the server
WORK = "work"
#: the store holds what is rewritten in the rounds beside what is there
SPARE = 2
#: less than a source waits for a restore: in pre-copy it stands still meanwhile
FILL_TIMEOUT_S = 240.0


class Served:
    """One container's pages at its destination, and the server that gives them to it.

    `abort` kills what is served, `close` lets go: a server that still fills or waits goes on.
    """

    def __init__(self, images_dir: Path) -> None:
        self._images_dir = images_dir
        self.work_dir = images_dir / WORK
        self.work_dir.mkdir(mode=0o700)
        self._server: LazyPages | None = None
        self._began = 0.0
        #: nobody restores who may have to wait for a page
        self._settled = threading.Event()
        #: the source's stream has ended, before its time
        self._lost = threading.Event()

    def _load(
        self, pids: dict[int, int], lazy: dict[int, list[Run]], hot: dict[int, list[Run]]
    ) -> None:
        assert self._server is not None
        self._server.load(lazy, hot, expected=pids)
        self._began = time.monotonic()

    def _filled(self) -> Filled:
        assert self._server is not None
        progress = self._server.progress
        return Filled(
            pages=progress.total_pages,
            faults=progress.faults,
            duration_ms=(time.monotonic() - self._began) * 1000,
        )

    def watch(self, give_up: Callable[[], None]) -> None:
        """While it is restored: *give_up*, in another thread, when its source is lost.

        A restore touches pages itself (the kernel writes to each thread's rseq area), and would
        wait for them for ever.
        """
        deadline = time.monotonic() + RESTORE_TIMEOUT_S  # a silent source has given up by then

        def wait() -> None:
            while not self._settled.wait(0.05):
                if self._lost.is_set() or time.monotonic() > deadline:
                    give_up()
                    return

        threading.Thread(target=wait, name="source", daemon=True).start()

    def await_whole(self) -> None:
        """All of it is restored: wait for what has to be here before it may run.

        Raises MigrationError when that does not come.
        """
        self._settled.set()

    def when_lost(self, end_it: Callable[[], None]) -> None:
        """From now on: *end_it* when its pages are lost, for the kernel gives it zeros for them."""
        if self._server is not None:
            self._server.when_lost(end_it)

    def ensure_served(self) -> None:
        """Raise LazyPagesFailed when its pages are lost."""
        if self._server is not None:
            self._server.ensure_it_serves()

    def abort(self) -> None:
        """The migration is off: nothing is served any more."""
        self._settled.set()
        if self._server is not None:
            self._server.abort()
        self.close()

    def close(self) -> None:
        """Let go of the server."""
        if self._server is not None:
            self._server.close()
            self._server = None


class Arrival(Served):
    """Pages that come before the container, into a store."""

    def __init__(self, images_dir: Path, memory_bytes: int, *, kept: Path) -> None:
        """Make a store in *images_dir*, out of what an earlier attempt has `kept` where it has.

        Raises OSError.
        """
        super().__init__(images_dir)
        directory = images_dir / STORE
        capacity = SPARE * memory_bytes + (256 << 20)
        self._store = _adopted(kept, directory, capacity) or _new(directory, capacity)
        self._hot: dict[int, list[Run]] = {}
        self._whole = threading.Event()
        self._releasing = threading.Lock()

    def receive(self, stream: ssl.SSLSocket) -> None:
        """Take in the pages that come over *stream*, until the source says that it is done."""
        try:
            Receiver(stream, self._store, self._release).serve()
        finally:
            if not self._whole.is_set():
                self._lost.set()

    def arm(self, hot: Sequence[Sequence[int]]) -> None:
        """Start the server: criu finds it in work_dir. Raises ValueError for what is no run."""
        for space, start, end in hot:
            self._hot.setdefault(int(space), []).append((int(start), int(end)))
        load()
        self._store.drop_adopted()
        self._start_server()

    def _start_server(self) -> None:
        source = {"kind": "store", "directory": str(self._images_dir / STORE)}
        self._server = LazyPages.start(self.work_dir, source, discard=True, hold=True)

    def expect(self, spaces: Mapping[str, int]) -> None:
        """The images are here: what each process is to be given. Raises BadImages, ValueError."""
        self._load(*lazy_runs(self._images_dir, spaces), self._hot)

    def await_whole(self) -> None:
        """Wait until the source has said that every page is here and right.

        The restore goes on meanwhile; what asks for a page there waits, since an older one may be
        in its place still. Raises MigrationError.
        """
        self._await_pages()
        super().await_whole()

    def _await_pages(self) -> None:
        while not self._whole.wait(0.1):
            if self._lost.is_set():
                raise MigrationError("the last pages have not come")

    def _release(self) -> None:
        with self._releasing:
            if self._server is None:
                raise ProtocolError("the source", "its pages are whole at the wrong time")
            self._server.release()
        self._whole.set()

    def fill(self) -> Filled:
        """Wait until every page is in its place."""
        assert self._server is not None
        if not self._server.fill(FILL_TIMEOUT_S):
            raise MigrationError(f"not all pages are in their places after {FILL_TIMEOUT_S:g} s")
        return self._filled()

    def keep(self, kept: Path) -> None:
        """After `abort`: leave the contents that have arrived at *kept*, in place of older ones."""
        shutil.rmtree(kept, ignore_errors=True)
        with suppress(OSError):
            (self._images_dir / STORE).rename(kept)

    def close(self) -> None:
        """Let go of store and server."""
        self._store.close()
        with self._releasing:
            super().close()


class WholeArrival(Arrival):
    """Pages that are all here before anything is restored, which then needs no server."""

    def __init__(self, images_dir: Path, memory_bytes: int, *, kept: Path) -> None:
        """Raises OSError."""
        super().__init__(images_dir, memory_bytes, kept=kept)
        self._written = Filled(pages=0, faults=0, duration_ms=0.0)

    def _start_server(self) -> None:
        """It needs none."""

    def expect(self, spaces: Mapping[str, int]) -> None:
        """The images are here: wait for the pages, and make the images whole with them.

        Raises BadImages, ValueError, OSError; MigrationError when not all pages come.
        """
        self._await_pages()
        began = time.monotonic()
        pages = eager_images.complete(self._images_dir, spaces, self._store)
        duration_ms = (time.monotonic() - began) * 1000
        self._written = Filled(pages=pages, faults=0, duration_ms=duration_ms)

    def fill(self) -> Filled:
        """All of it came with the images."""
        return self._written

    def _release(self) -> None:
        self._whole.set()


def _new(directory: Path, capacity: int) -> PageStore:
    directory.mkdir(mode=0o700)
    return PageStore.create(directory, capacity)


def _adopted(kept: Path, directory: Path, capacity: int) -> PageStore | None:
    """The store at *kept*, moved to *directory*; None where none can be used, which is removed."""
    try:
        status = kept.lstat()
    except OSError:
        return None
    # The place is one where everybody may make a directory of that name.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        logger.warning("%s is not ours: left alone", kept)
        return None
    try:
        kept.rename(directory)
        return PageStore.adopt(directory, capacity)
    except (OSError, StoreError) as error:
        logger.info("the pages at %s are of no use: %s", kept, error)
        shutil.rmtree(directory, ignore_errors=True)
        return None


def lazy_runs(
    images_dir: Path, spaces: Mapping[str, int]
) -> tuple[dict[int, int], dict[int, list[Run]]]:
    """pid inside -> space, and space -> the runs that the images leave to a server.

    Raises BadImages, ValueError.
    """
    pids = {int(vpid): int(space) for vpid, space in spaces.items()}
    lazy: dict[int, list[Run]] = {}
    for vpid, space in pids.items():
        _, entries = read_pagemap(images_dir / f"pagemap-{vpid}.img")
        lazy[space] = [(each.address, each.end) for each in entries if each.flags & PE_LAZY]
        addresses = [address for run in lazy[space] for address in run]
        if addresses != sorted(addresses) or addresses[-1:] > [ADDRESS_LIMIT]:
            raise ValueError(f"pagemap-{vpid}.img is not in order")
    return pids, lazy
