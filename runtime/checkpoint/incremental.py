"""Incremental checkpoints: memory copied while the container runs, the rest at the end.

    pre_dump(container, into pre1)                        it runs on
    pre_dump(container, into pre2, parent "../pre1")      what was written since
    checkpoint(container, into last, parent "../pre2")    all else, and what was written since

`criu restore` from the last directory takes each page from the newest directory that has it. Where
the kernel has soft-dirty bits, CRIU does it all. Elsewhere it cannot, and it is done here: a
tracker that a process keeps from one command to the next says what was written (runtime.memory
.keeper), CRIU dumps everything but private memory (bare_dump.py), and the pagemaps are ours. What
is not provably in the parent is copied: without a keeper that is everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from criu_rpc import Criu, CriuError, Handler, Notification, Script, find_criu, first_of, images
from criu_rpc.logger import Logger
from criu_rpc.memory_images import PE_PARENT, PE_PRESENT, load, write_pagemap
from runtime.checkpoint.bare_dump import (
    FIRST_PAGES_ID,
    BareCriu,
    Elsewhere,
    FrozenMemory,
    complete,
    entries_of,
    stack_pages,
)
from runtime.checkpoint.dump import Checkpoint
from runtime.checkpoint.image_directory import written
from runtime.checkpoint.immovable import objections
from runtime.checkpoint.incremental_chain import Link, Parent
from runtime.checkpoint.options import CheckpointOptions
from runtime.container import Container
from runtime.errors import CheckpointFailed, WrongStatus
from runtime.memory import keeper, soft_dirty
from runtime.memory.errors import KeeperFailed
from runtime.memory.keeper import Keeper
from runtime.memory.runs import Run, intersect, minus, size_pages
from runtime.oserrors import reason
from runtime.processes import vpid_of
from runtime.state import Status, lock

logger = Logger(__name__)


class Written(NamedTuple):
    """How much memory a pre-dump has copied."""

    pages: int
    #: of pages that are left to the parent
    parent_pages: int


def pre_dump(container: Container, options: CheckpointOptions, parent_path: str | None) -> Written:
    """Copy its memory into an image directory while it runs on.

    parent_path: the directory of the pre-dump before, relative to the new one; what was not written
    since stays there alone. Raises WrongStatus, CheckpointFailed, ContainerBusy; no image is left
    then, and the parent's chain can be gone on with.
    """
    parent = _parent(container, options, parent_path)
    if (status := container.status()) is not Status.RUNNING:
        raise WrongStatus(container.id, status, ("running",))
    for why in objections(container.spec, container.processes()):
        raise CheckpointFailed(container.id, why)
    with lock(container.dir), _failing(container), ExitStack() as stack:
        stack.enter_context(written(options.image_path, options.work_path))
        link = Link.new(container.state, parent)
        link.write(options.image_path)
        if by_criu():
            return _pre_dump_with_criu(container, options, parent)
        kept = stack.enter_context(_keeping(container, parent))
        found = _copy(kept, options.image_path, parent)
        _tell(found, options.work_path or options.image_path)
        try:
            kept.keeper.commit(link.token)
        except KeeperFailed as error:  # the next one has to copy everything
            logger.warning("%s", error)
        logger.info("copied %d pages; the parent has %d", *found)
        return found


def checkpoint(
    container: Container,
    options: CheckpointOptions,
    parent_path: str,
    *,
    on_notify: Handler | None = None,
) -> None:
    """Dump *container* as runtime.checkpoint.dump.checkpoint, but for memory that the parent has.

    Raises as that does, and CheckpointFailed for a parent that cannot be one.
    """
    parent = _parent(container, options, parent_path)
    assert parent is not None
    dump = Checkpoint(container, options)
    link = Link.new(container.state, parent)

    def on_dumped(notification: Notification) -> None:
        if notification.script == Script.POST_DUMP:
            link.write(options.image_path)

    if by_criu():
        (options.image_path / images.PARENT).unlink(missing_ok=True)  # CRIU keeps what it finds
        dump.dump_options = replace(dump.dump_options, parent_img=parent_path, track_mem=True)
        dump.run(first_of(on_dumped, on_notify))
    else:
        with BareCriu.start(options.criu, within=dump.place()) as bare, _failing(container):
            weaving = _Weaving(container, options.image_path, parent, bare)
            dump.run(first_of(weaving.on_notify, on_dumped, on_notify), criu=bare.criu)
    if not options.leave_running:
        container.delete(force=True)
    else:
        keeper.end(container.dir)


def _tell(found: Written, directory: Path) -> None:
    """Leave the statistics that CRIU would leave: Podman looks for them."""
    from criu_rpc.stats import DumpStats, write_dump_stats  # noqa: PLC0415 - of few calls

    scanned = sum(found)
    numbers = DumpStats(
        pages_scanned=scanned, pages_skipped_parent=found.parent_pages, pages_written=found.pages
    )
    write_dump_stats(directory, numbers)


class _Kept(NamedTuple):
    keeper: Keeper
    #: what a round found: see Keeper.round
    found: dict[int, tuple[list[Run], list[Run]]]


class _Weaving:
    """The memory of a dump whose parent has most of it."""

    def __init__(
        self, container: Container, images_dir: Path, parent: Parent, bare: BareCriu
    ) -> None:
        self._container, self._images_dir = container, images_dir
        self._parent, self._bare = parent, bare
        # Read while it runs; processes that are new by then have nothing in the parent.
        vpids = {pid: vpid for pid in container.processes() if (vpid := _vpid(pid))}
        self._in_parent = {pid: parent.runs(vpid) for pid, vpid in vpids.items()}
        self._clean: dict[int, list[Run]] = {}
        self._frozen: list[FrozenMemory] = []

    def on_notify(self, notification: Notification) -> None:
        if notification.script == Script.QUERY_EXT_FILES:
            self._look()  # the first point at which all stand still
        elif notification.script == Script.POST_DUMP:
            elsewhere = Elsewhere(
                PE_PARENT, lambda memory, pages: intersect(pages, self._clean.get(memory.pid, []))
            )
            complete(self._images_dir, self._frozen, elsewhere)
            self._parent.link(self._images_dir)

    def _look(self) -> None:
        pids = self._container.processes()
        self._bare.hide(pids)
        stacks = {pid: stack_pages(pid) for pid in pids}
        found = (FrozenMemory.of(pid, pages) for pid, pages in stacks.items())
        self._frozen = [memory for memory in found if memory is not None]
        for pid, dirty in self._dirty().items():
            self._clean[pid] = minus(self._in_parent.get(pid, []), dirty)

    def _dirty(self) -> dict[int, list[Run]]:
        """By process, what may differ from the parent; one that is missing differs altogether."""
        kept = Keeper.find(self._container.dir)
        if kept is not None:
            with kept:
                try:
                    if (dirty := kept.final(self._parent.token)) is not None:
                        return dirty
                except KeeperFailed as error:
                    logger.info("%s", error)
        logger.warning("what was written since %s is not known: all is copied", self._parent.path)
        return {}


def _parent(
    container: Container, options: CheckpointOptions, parent_path: str | None
) -> Parent | None:
    if parent_path is None:
        return None
    return Parent.find(container.state, options.image_path, parent_path)


def by_criu() -> bool:
    """Whether CRIU itself can tell what was written."""
    return soft_dirty.unavailable() is None


@contextmanager
def _failing(container: Container) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise CheckpointFailed(container.id, reason(exc)) from exc
    except (CriuError, KeeperFailed) as exc:
        raise CheckpointFailed(container.id, str(exc)) from exc


def _pre_dump_with_criu(
    container: Container, options: CheckpointOptions, parent: Parent | None
) -> Written:
    request = replace(
        Checkpoint(container, replace(options, leave_running=True)).dump_options,
        parent_img=parent.path if parent else None,
        track_mem=True,
    )
    (options.image_path / images.PARENT).unlink(missing_ok=True)  # as above
    with Criu.start(find_criu(options.criu)) as criu:
        stats = criu.pre_dump(request)
    return Written(stats.pages_written, stats.pages_skipped_parent)


@contextmanager
def _keeping(container: Container, parent: Parent | None) -> Iterator[_Kept]:
    """A keeper and what it has found: the one that knows the parent, or a new one."""
    if parent and (known := Keeper.find(container.dir)):
        with known:
            found = None
            with suppress(KeeperFailed):
                found = known.round(parent.token)
            if found is not None:
                yield _Kept(known, found)
                return
    if parent:
        logger.warning("what was written since %s is not known: all is copied", parent.path)
    with Keeper.start(container.dir) as new:
        try:
            yield _Kept(new, new.round("") or {})
        except BaseException:
            keeper.end(container.dir)  # it would track for nobody
            raise


def _copy(kept: _Kept, images_dir: Path, parent: Parent | None) -> Written:
    """Write the images of a pre-dump."""
    load()
    total = Written(0, 0)
    for number, (pid, (dirty, there)) in enumerate(kept.found.items(), FIRST_PAGES_ID):
        vpid = _vpid(pid)
        if vpid is None:  # ended meanwhile
            continue
        clean = minus(intersect(parent.runs(vpid), there), dirty) if parent else []
        path = images_dir / f"pages-{number}.img"
        path.unlink(missing_ok=True)  # of a former dump into this directory
        with path.open("xb") as image:
            copied = kept.keeper.copy(pid, minus(there, clean), image.fileno())
        entries = [*entries_of(clean, PE_PARENT), *entries_of(copied, PE_PRESENT)]
        write_pagemap(images_dir / f"pagemap-{vpid}.img", number, sorted(entries))
        total = Written(total.pages + size_pages(copied), total.parent_pages + size_pages(clean))
    images.write_inventory(images_dir)
    if parent:
        parent.link(images_dir)
    return total


def _vpid(pid: int) -> int | None:
    try:
        return vpid_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
