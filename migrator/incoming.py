"""One migration at its destination: all that it makes, and the one way to remove it all.

What was made is written to the journal before it is made, so that `discard` works for the agent
itself, for the next agent and for `migrator resolve` alike, from the journal alone.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from criu_rpc import Notification, Script
from migrator import images, journal, processes, rootfs
from migrator import messages as m
from migrator.arrival import Arrival, WholeArrival
from migrator.dataplane import Listener
from migrator.errors import MigrationError, ProtocolError
from migrator.pages.late import LateArrival
from migrator.preflight import came_by_migration, mark
from migrator.settling import remove_images, remove_images_unless_wanted, settle
from migrator.tls import Credentials
from runtime import Container, ContainerError, ContainerExists, Stdio, Terminal
from runtime.checkpoint.descriptors import Descriptor, Kind
from runtime.checkpoint.records import Record
from runtime.checkpoint.restore import Restore
from runtime.checkpoint.restore_options import RestoreOptions
from runtime.errors import NetworkNotCarried
from runtime.network.held import Frames, from_wire
from runtime.process.terminal import Console
from runtime.state import check_id, write_atomic


class Incoming:
    """The destination's part of one migration, from `prepare` to `finish` or `discard`."""

    def __init__(
        self, root: Path, request: m.Prepare, *, criu: str | None, console: Console | None = None
    ) -> None:
        """Reserve the container's id: the journal stays locked until `close`.

        What a dead migration left of this container is removed first. console: is given its
        terminal. Raises UsageProblem when a live one is at work, ContainerExists when one has
        brought it here.
        """
        self.root, self.request, self._criu = root, request, criu
        self.container = check_id(request.container)
        self.bundle, self.rootfs = Path(request.bundle), Path(request.rootfs)
        if not self.bundle.is_absolute() or not self.rootfs.is_absolute():
            raise ProtocolError("the source", "a bundle path that is not absolute")
        journal.check_migration(request.migration)
        self.journal = journal.open_journal(root, self.container, journal.DESTINATION)
        try:
            self._end_former()
        except BaseException:
            self.journal.close()
            raise
        self._listener: Listener | None = None
        self._restore: Restore | None = None
        self._received = threading.Event()
        self._receive_error: BaseException | None = None
        self.images_dir: Path | None = None
        self._arrival: Arrival | LateArrival | None = None
        self._held: Frames = {}
        self._console = console
        #: ours until it is restored and whole
        self._terminal = Terminal() if console is not None else None

    def _end_former(self) -> None:
        """Let go of the record of an earlier migration, but for what its source may still ask."""
        if self.journal.entries and settle(self.root, self.journal) == "running":
            if (self.root / self.container).exists():
                raise ContainerExists(self.container)
            self.journal.keep()
            remove_images(self.journal)  # whoever waited for pages has ended
        self.journal.clear()

    def prepare(self, address: str) -> m.Prepared:
        """Make bundle and image directory, open the data plane on *address*."""
        request = self.request
        new = request.rootfs_mode == "sync" and not came_by_migration(self.bundle, self.container)
        for path in (self.rootfs, self.bundle) if new else ():
            if not is_new(path):
                raise MigrationError(f"{path} has files that are not {self.container}'s")
        memory = int(request.memory_bytes)
        self.images_dir = images.choose_images_dir(self.container, memory)
        shared = int(request.shared_bytes)
        self._keeps_bytes = images.room_to_keep(self.images_dir, memory, shared)
        self.journal.write(
            "prepared",
            migration=request.migration,
            container=self.container,
            agent=processes.identity(os.getpid()),
            bundle=str(self.bundle),
            rootfs=str(self.rootfs),
            remove=[str(each) for each in (self.rootfs, self.bundle) if new and is_new(each)],
            parents=missing_parents(self.bundle, self.rootfs),
            images_dir=str(self.images_dir),
        )
        self.images_dir.mkdir(mode=0o700)
        if request.memory in ("store", "whole"):
            kind = Arrival if request.memory == "store" else WholeArrival
            self._arrival = kind(self.images_dir, memory, kept=self._kept_pages())
        elif request.memory == "source":
            self._arrival = LateArrival(self.images_dir, request.give_up_after_s)
        if request.rootfs_mode == "sync":
            self.rootfs.mkdir(parents=True, exist_ok=True)
            self.bundle.mkdir(parents=True, exist_ok=True)
            mark(self.bundle, self.container)
            write_atomic(self.bundle / "config.json", request.config.encode())
        credentials = Credentials.make()
        context = credentials.context(request.certificate, server=True)
        self._listener = Listener(address, context, self._serve_stream)
        return m.Prepared(address, self._listener.port, credentials.certificate, self._keeps_bytes)

    def arm(self, request: m.Arm) -> str:
        """Start CRIU and make what can be made before the images are there.

        Returns why the network namespace is left to CRIU, "" where it was made.
        """
        assert self.images_dir is not None
        options = RestoreOptions.from_wire(
            request.options, images_dir=self.images_dir, criu=self._criu
        )
        record = options.record
        assert record is not None
        options = replace(
            options, stdio=standard_streams(record), terminal=self._terminal, own_images=True
        )
        if self._console is not None:
            self._console.ensure_listens()
        if self._arrival is not None:
            options = replace(options, work_path=self._arrival.work_dir)
        restore = Restore(self.root, self.container, self.bundle, options)
        if self._arrival is not None:
            self._arrival.arm(request.hot)
        refused = ""
        try:
            try:
                restore.prepare(self._reserved)
            except NetworkNotCarried as error:
                refused = error.why
                by_criu = replace(record, namespace=None)
                options = replace(options, record=by_criu)
                restore = Restore(self.root, self.container, self.bundle, options)
                restore.prepare(self._reserved)
        except ContainerExists:
            self.journal.write("taken")  # it is another's: discarding must not touch it
            raise
        self._restore = restore
        self.journal.write("armed", criu=processes.identity(restore.criu_pid))
        return refused

    def _reserved(self) -> None:
        """Not before the id is ours: discarding removes the container of that id."""
        self.journal.write("arming")

    def restore(self, request: m.Restore, hold: Callable[[int], None]) -> Container:
        """Restore from the complete images; *hold(pid)* is called with everything restored and
        nothing running.

        A source that waits for us learns at once that it failed, by its streams' end.

        When hold returns, it runs. What hold raises kills what was restored and comes out here.
        """
        try:
            return self._restored(request, hold)
        except BaseException:
            self._end_streams()
            raise

    def _restored(self, request: m.Restore, hold: Callable[[int], None]) -> Container:
        assert self._restore is not None
        assert self.images_dir is not None
        if not self._received.wait(images.ARRIVAL_TIMEOUT_S):
            raise MigrationError("the image files did not arrive")
        if self._receive_error is not None:
            raise MigrationError(
                f"receiving image files failed: {self._receive_error}"
            ) from self._receive_error
        files = request.files
        if (found := images.sizes(self.images_dir)) != files:
            wrong = sorted(
                name for name in found.keys() | files.keys() if found.get(name) != files.get(name)
            )
            raise MigrationError(f"image file {wrong[0]} did not arrive whole")

        if self._arrival is not None:
            self._arrival.expect(request.spaces)
            criu = processes.identity(self._restore.criu_pid)
            self._arrival.watch(lambda: processes.kill(*criu))

        def on_notify(notification: Notification) -> None:
            if notification.script == Script.POST_RESTORE:
                assert notification.pid is not None
                init = processes.identity(notification.pid)
                self.journal.write("restored", init=init)
                if self._arrival is not None:
                    self._arrival.when_lost(lambda: processes.kill(*init))
                self._make_whole(fill=request.fill_first)
                hold(notification.pid)
            elif notification.script == Script.PRE_RESUME and self._held:
                restore.replay(self._held)

        restore = self._restore
        return self._restore.run(on_notify)

    def _make_whole(self, *, fill: bool) -> None:
        """What it has to have before it may run: its memory, and somebody at its terminal."""
        if self._arrival is not None:
            self._arrival.await_whole()
            if fill:
                self._arrival.fill()
            self._arrival.ensure_served()
        if self._terminal is not None and self._console is not None:
            self._terminal.hand_over(self._console)

    def fill(self) -> m.Filled:
        """Wait until the container has all its pages."""
        assert self._arrival is not None
        return self._arrival.fill()

    def run(self, held: dict[str, Any]) -> None:
        """COMMIT came: it may run here and nowhere else.

        held: packets that its source kept for it; whatever is wrong with them, it runs. Raises
        LazyPagesFailed, OSError: it does not.
        """
        if self._arrival is not None:
            self._arrival.ensure_served()
        self.journal.write("run")
        with suppress(ValueError):
            self._held = from_wire(held)

    def running(self) -> None:
        """It runs: final."""
        self.journal.write("running")

    def close(self) -> None:
        """Stop the data plane and remove the images; the record stays for a source that asks."""
        self._end_streams()
        remove_images_unless_wanted(self.journal)

    def discard(self) -> None:
        """Remove everything that this migration made here; the journal then says dead.

        Past "run" the container's own fate decides: what lives is left to run.
        """
        self._end_streams()
        if self._restore is not None and not self.journal.has("run"):
            with suppress(ContainerError):
                self._restore.abort()
        if self._arrival is not None and not self.journal.has("run"):
            self._arrival.abort()
            if self.request.keep_pages and isinstance(self._arrival, Arrival):
                self._arrival.keep(self._kept_pages())
        if settle(self.root, self.journal) == "dead":
            self.journal.remove()  # no record means dead

    def _end_streams(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _kept_pages(self) -> Path:
        """Where pages stay between two attempts to move this container here."""
        assert self.images_dir is not None
        return self.images_dir.parent / f"migrator-pages-{self.container}"

    def _serve_stream(self, header: dict[str, Any], stream: ssl.SSLSocket) -> None:
        if header.get("stream") == "rsync":
            rootfs.serve(stream, self.rootfs)
        elif header.get("stream") in ("pages", "lazy") and self._arrival is not None:
            self._arrival.receive(stream)
        elif header.get("stream") == "images" and self.images_dir is not None:
            try:
                images.receive_images(stream, self.images_dir, keeps_bytes=self._keeps_bytes)
            except BaseException as error:
                self._receive_error = error
                raise
            finally:
                self._received.set()
        else:
            raise ProtocolError("the source", f"a stream of {header.get('stream')!r}")


def standard_streams(record: Record) -> Stdio:
    """Files of the host by the same path here; for all else, and without a path, /dev/null."""
    return Stdio(*map(_file_here, record.descriptors))


def _file_here(descriptor: Descriptor) -> Path | None:
    path = Path(descriptor.link)
    if descriptor.kind is not Kind.FILE or not path.is_absolute() or path.is_relative_to("/dev"):
        return None
    return path if path.parent.is_dir() else None


def is_new(path: Path) -> bool:
    """Whether nothing is there that a failed migration would have to leave alone."""
    return not path.exists() or not any(path.iterdir())


def missing_parents(*paths: Path) -> list[str]:
    """Directories above *paths* that are not there yet, the innermost first."""
    missing = {parent for path in paths for parent in path.parents if not parent.exists()}
    return [str(path) for path in sorted(missing, key=lambda each: -len(each.parts))]
