"""Dump a container into an image directory: all that CRIU has to be told, and the way back.

What can be found out while the container runs is found out then (`Checkpoint`); what is left for
the time in which it stands still is CRIU's work and three small reads. criu(8), CRIU's rpc.proto.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from criu_rpc import (
    Criu,
    CriuError,
    DumpOptions,
    DumpStats,
    Handler,
    NetworkLock,
    Notification,
    Script,
    find_criu,
    first_of,
)
from criu_rpc.logger import Logger
from runtime import processes
from runtime.checkpoint import descriptors, dump_plan, externals, reservations, tmpfs
from runtime.checkpoint.criu_config import criu_config
from runtime.checkpoint.image_directory import written
from runtime.checkpoint.options import CheckpointOptions
from runtime.constants import CLONE_NEWNET
from runtime.container import Container
from runtime.errors import CheckpointFailed, ContainerError, NetworkNotCarried
from runtime.network.departure import departing
from runtime.network.held import Held
from runtime.network.lock import network_lock
from runtime.network.unlock import unlock as unlock_network
from runtime.oserrors import reason
from runtime.state import lock

logger = Logger(__name__)

_SEIZE_AT_MOST = 200


def checkpoint(
    container: Container,
    options: CheckpointOptions,
    *,
    on_notify: Handler | None = None,
    criu: Criu | None = None,
    destroy: bool = True,
) -> DumpStats:
    """Dump *container*, and remove it unless it is left running or *destroy* is false.

    Raises as Checkpoint and Checkpoint.run do; the container is then as it was.
    """
    stats = Checkpoint(container, options).run(on_notify, criu=criu)
    if destroy and not options.leave_running:
        container.delete(force=True)
    return stats


class Checkpoint:
    """One dump of one container: planned when this object is made, while the container runs."""

    def __init__(self, container: Container, options: CheckpointOptions) -> None:
        """Find out all that CRIU has to know.

        Raises WrongStatus, CheckpointFailed when the container cannot be dumped; nothing was done.
        """
        self.container, self.options = container, options
        plan = dump_plan.of(container, options)
        self._was_paused, self._strangers = plan.was_paused, plan.strangers
        #: what a restore is told; positions in files are only known when the container stands still
        self.record = plan.record
        self._network = departing(container) if _takes_network(options) else None
        if self._network is not None:
            self.record = replace(self.record, namespace=self._network.description)
        self.dump_options = self._dump_options(plan.mounts)
        self._passed: set[str] = set()
        self._held: Held | None = None
        self._tmpfs: tmpfs.Opened | None = None

    def place(self) -> AbstractContextManager[None]:
        """Where a criu for this dump is to be started (Criu.start, within)."""
        return self._network.place() if self._network is not None else nullcontext()

    def fits(self, criu: Criu) -> bool:
        """Whether *criu* was started in `place`."""
        inside = self._network and not self._network.outside
        place = self.container.netns_path if inside else "/proc/thread-self/ns/net"
        return os.path.samefile(f"/proc/{criu.pid}/ns/net", place)

    def run(
        self,
        on_notify: Handler | None = None,
        *,
        criu: Criu | None = None,
        held: Held | None = None,
    ) -> DumpStats:
        """Dump it, into an image directory that is made if it is missing.

        on_notify: asked at every point of the dump (criu_rpc.notify); blocking holds the container
        there, raising lets it run on. criu: one that is started already; it stays the caller's.
        held: told when it freezes, and when packets are about to be dropped.
        Afterwards the container is stopped, or runs on where that was asked for.

        Whoever holds it at post-dump for long had better freeze its cgroup first: should CRIU die,
        the processes go on at once, with TCP sockets that fail until `unlock` has been there.

        Raises CheckpointFailed, ContainerBusy, CriuNotFound, or what *on_notify* raised. The
        container then runs (or is paused) as before, its network unlocked, and no image is left -
        unless *on_notify* has frozen its cgroup at post-dump or later: what is frozen by hand stays
        frozen, and locked, until it is thawed and `unlock` is called.
        """
        with ExitStack() as stack:
            stack.enter_context(lock(self.container.dir))
            self._make_directories(stack)
            if criu is None:
                started = Criu.start(find_criu(self.options.criu), within=self.place())
                criu = stack.enter_context(started)
            self._open_tmpfs(stack)
            self._open_network(stack, criu)
            self._held = held
            try:
                return self._dump(criu, on_notify)
            except BaseException:
                criu.close()  # it resumes what it still holds
                self._set_free()
                raise

    def _make_directories(self, stack: ExitStack) -> None:
        options = self.options
        try:
            stack.enter_context(written(options.image_path, options.work_path))
            self.record.write(options.image_path)  # as it will most likely stay
        except OSError as exc:
            raise CheckpointFailed(self.container.id, reason(exc)) from exc

    def _open_tmpfs(self, stack: ExitStack) -> None:
        try:
            mounts = tmpfs.opened(self.container.state.init_pid, self.record.tmpfs)
            self._tmpfs = stack.enter_context(mounts)
        except OSError as exc:
            raise CheckpointFailed(self.container.id, f"its mount {reason(exc)}") from exc

    def _open_network(self, stack: ExitStack, criu: Criu) -> None:
        if not self.fits(criu):
            why = "criu was started in another network namespace: see Checkpoint.place"
            raise CheckpointFailed(self.container.id, why)
        if self._network is not None:
            stack.enter_context(self._network)

    def _hold(self, step: Callable[[Held], None]) -> None:
        """A packet is not worth a dump."""
        if self._held is not None:
            with suppress(OSError):
                step(self._held)

    def _lock_network(self) -> None:
        if self._network is not None:
            self._hold(Held.lock)
            try:
                self._network.freeze()
            except OSError as exc:
                why = f"locking its network: {exc.strerror}"
                raise CheckpointFailed(self.container.id, why) from exc

    def _note_network(self) -> None:
        """Should it have changed since the other side made it again, that makes it once more."""
        if self._network is None:
            return
        try:
            changes = self._network.changes()
        except NetworkNotCarried as error:
            why = f"its network was changed meanwhile: {error.why}; try again"
            raise CheckpointFailed(self.container.id, why) from error
        if changes:
            logger.info("the network namespace was changed meanwhile: %s", "; ".join(changes))
            self.record = replace(self.record, namespace=self._network.description)
            self.record.write(self.options.image_path)

    def _dump(self, criu: Criu, on_notify: Handler | None) -> DumpStats:
        try:
            handler = first_of(self._on_notify, on_notify, self._on_agreed)
            return criu.dump(self.dump_options, handler)
        except CriuError as error:
            ended = "" if self.container.status().has_init else "; its processes have ended"
            raise CheckpointFailed(self.container.id, f"{error}{ended}") from error

    def _on_notify(self, notification: Notification) -> None:
        self._passed.add(notification.script)
        # the first point at which all stand still
        if notification.script == Script.PRE_DUMP:
            self._hold(Held.begin)
        elif notification.script == Script.NETWORK_LOCK:
            self._hold(Held.lock)
        elif notification.script == Script.QUERY_EXT_FILES:
            self._lock_network()
            self._save_tmpfs()
            self._note_positions()
        elif notification.script == Script.POST_DUMP:
            self._note_network()
            reservations.keep_from_counting(self.options.image_path, self.container.processes())
        elif notification.script == Script.STATUS_READY:
            self._say_ready()

    def _say_ready(self) -> None:
        if (fd := self.options.status_fd) is not None:
            os.write(fd, b"\0")
            os.close(fd)

    def _note_positions(self) -> None:
        before = self.record.descriptors
        places = descriptors.with_positions(before, self.container.state.init_pid)
        if tuple(places) != before:
            self.record = replace(self.record, descriptors=tuple(places))
            self.record.write(self.options.image_path)

    def _save_tmpfs(self) -> None:
        assert self._tmpfs is not None
        try:
            self._tmpfs.save(self.options.image_path)
        except OSError as exc:
            about = exc.filename or self.options.image_path
            why = f"packing its tmpfs mounts: {about}: {exc.strerror}"
            raise CheckpointFailed(self.container.id, why) from exc

    def _on_agreed(self, notification: Notification) -> None:
        """After everybody has let the dump go on."""
        if notification.script == Script.POST_DUMP and not self.options.leave_running:
            # CRIU is about to kill the tree, and its init only ends when the last zombie of its
            # pid namespace is reaped: those whom we have started with exec, only by us.
            zombies = processes.zombies_beside(self.container.state.init_pid)
            processes.end((*self._strangers, *zombies))

    def _set_free(self) -> None:
        """Undo what CRIU may have left, but not what somebody else did to hold the container."""
        frozen = self.container.cgroup.frozen()
        if frozen and Script.POST_DUMP in self._passed and not self._was_paused:
            logger.info("container %s was frozen by hand and stays so", self.container.id)
            return
        if frozen and not self._was_paused:
            self.container.cgroup.thaw()  # criu died while it froze the cgroup
        unlock(self.container)

    def _dump_options(self, mounts: list[externals.ExternalMount]) -> DumpOptions:
        container, options = self.container, self.options
        pid = container.state.init_pid
        outside = [each.external for each in self.record.descriptors if each.external]
        return DumpOptions(
            pid=pid,
            images_dir=options.image_path,
            work_dir=options.work_path,
            root=container.state.rootfs,
            config_file=criu_config(container.state.annotations),
            external=(*externals.namespaces_to_dump(container.spec, pid), *outside),
            ext_mnt=tuple((mount.point, mount.name) for mount in mounts),
            leave_running=options.leave_running,
            leave_stopped=options.leave_stopped,
            tcp_established=options.tcp_established,
            tcp_skip_in_flight=options.tcp_skip_in_flight,
            ext_unix_sk=options.ext_unix_sk,
            shell_job=options.shell_job,
            file_locks=options.file_locks,
            empty_ns=CLONE_NEWNET if self._leaves_network_empty() else None,
            link_remap=options.link_remap,
            auto_dedup=options.auto_dedup,
            page_server=options.page_server,
            lazy_pages=options.lazy_pages,
            ghost_limit_bytes=options.ghost_limit_bytes,
            timeout_s=options.timeout_s,
            orphan_pts_master=True,
            manage_cgroups_mode=options.manage_cgroups_mode,
            network_lock=self._network_lock(),
            freeze_cgroup=self._freezer(),
        )

    def _leaves_network_empty(self) -> bool:
        """Whether CRIU is to look at nothing but sockets there, and to make an empty one."""
        filled_by_us = self._network is not None and self._network.outside
        return self.options.empty_network or filled_by_us

    def _network_lock(self) -> NetworkLock:
        if self._network is not None:
            return NetworkLock.SKIP  # it is ours: CRIU would start on single connections
        return self.options.network_lock or network_lock(find_criu(self.options.criu))

    def _freezer(self) -> Path | None:
        """The freezer for CRIU to use; None to have it seize one task after the other.

        CRIU looks only every 100 ms whether a freezer has done its work, and seizes a task in
        20 us. The freezer is for many tasks, for those that exec started, whom CRIU does not find
        by descent, and for a container that is paused.
        """
        cgroup = self.container.cgroup
        tasks = processes.thread_count(cgroup.processes())
        seize = tasks <= _SEIZE_AT_MOST and not self._strangers and not self._was_paused
        return None if seize else cgroup.freezer_path


def unlock(container: Container) -> None:
    """Let a running container's network work again after a CRIU that died while it dumped it."""
    if container.status().has_init:
        shared = os.path.samefile(container.netns_path, "/proc/thread-self/ns/net")
        with suppress(ContainerError):
            unlock_network(container.state.init_pid, container.processes(), shared=shared)


def _takes_network(options: CheckpointOptions) -> bool:
    """Our lock is for good: CRIU does not take it back where the container runs on."""
    return options.own_network and not options.leave_running and not options.empty_network
