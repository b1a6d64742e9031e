"""Make a container out of an image directory: everything around it first, then CRIU.

`Restore.prepare` needs no image and takes the time; `Restore.run` is what a client waits for.
Every step has its undo beside it: a restore that fails leaves no process, cgroup, interface, mount
or directory. criu(8), CRIU's rpc.proto, OCI runtime-spec runtime.md "Lifecycle".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from criu_rpc import CriuError, Handler, Notification, Script, first_of, images
from criu_rpc.logger import Logger
from runtime import affinity, hook_points, namespaces, processes
from runtime.cgroups import delegation, of_state
from runtime.checkpoint import descriptors, message_queues, peers, records, timers, tmpfs
from runtime.checkpoint.criu_launcher import start_criu
from runtime.checkpoint.restore_options import RestoreOptions
from runtime.checkpoint.restore_plan import RestorePlan
from runtime.container import Container
from runtime.errors import ContainerError, RestoreFailed
from runtime.hook_points import HookName
from runtime.network.announcement import announce
from runtime.network.held import Frames, replay
from runtime.network.netns import in_netns
from runtime.network.recreate import Recreated
from runtime.oserrors import reason
from runtime.process import pidfile, pty
from runtime.process.terminal import in_foreground, taker
from runtime.process.waiting import adopt_orphans, signals_held, wait_forwarding
from runtime.reserve import reserve
from runtime.state import Status, check_id, process_stat
from runtime.undo import Undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.checkpoint.late_memory import LateMemory

logger = Logger(__name__)

# From here on CRIU asks but does not heed: what was restored is about to run, or runs.
_TOO_LATE = frozenset({Script.NETWORK_UNLOCK, Script.PRE_RESUME, Script.POST_RESUME})


def restore(
    root: Path,
    container_id: str,
    bundle: Path,
    options: RestoreOptions,
    *,
    detach: bool = False,
    subreaper: bool = False,
) -> int:
    """Restore a container, wait for it, delete it, and return its exit status.

    detach: return 0 once it runs; subreaper: as of Container.run. Raises as Restore.prepare and
    Restore.run do.
    """
    terminal = options.terminal if detach else in_foreground(options.terminal)
    restoring = Restore(root, container_id, bundle, replace(options, terminal=terminal))
    restoring.prepare()
    if subreaper and terminal is not None and not detach:
        adopt_orphans()
    container = restoring.run()
    if terminal is None or detach:
        return 0
    with terminal, signals_held(), ExitStack() as stack:
        relay = terminal.relayed(options.stdio, stack)
        status = wait_forwarding(container.state.init_pid, relay, reaping=subreaper)
    container.delete(force=True)
    return status


class Restore:
    """One container on its way back: `prepare`, then `run`; `abort` instead, at any time."""

    def __init__(
        self, root: Path, container_id: str, bundle: Path, options: RestoreOptions
    ) -> None:
        self.root, self.container_id = root, check_id(container_id)
        self.bundle, self.options = bundle.absolute(), options
        self._prepared: _Prepared | None = None
        self._plan: RestorePlan | None = None

    @property
    def criu_pid(self) -> int:
        """Process id of the criu that `prepare` has started."""
        assert self._prepared is not None, "prepare comes first"
        return self._prepared.criu.pid

    def prepare(self, on_reserved: Callable[[], None] = lambda: None) -> None:
        """Take the id, and make all that does not need the images; criu then waits, warm.

        on_reserved: called when the id is ours, before anything else is made. Reads the record of
        the dump from the images where none was given.
        Raises ContainerExists, InvalidNetwork, SetupFailed, RestoreFailed and the like; nothing is
        then left.
        """
        with _failing(self.container_id), Undo() as undo:
            directory = reserve(self.root, self.container_id, undo)
            on_reserved()
            plan = RestorePlan.make(self.container_id, self.bundle, self.options, directory)
            self._prepared, self._plan = _Prepared(plan, undo), plan
            self._prepared.undo = undo.pop_all()

    def run(self, on_notify: Handler | None = None) -> Container:
        """Restore it from the images, which must be complete now; returns when it runs.

        on_notify: asked at every point (criu_rpc.notify), after what is done here: at post-restore
        the container is whole, its state saved, and none of its processes runs. What it raises up
        to then comes out here, everything undone as by `abort`. What it raises later comes out
        too, but then the container runs.

        Raises RestoreFailed or HookFailed; nothing of the container is then left.
        """
        assert self._prepared is not None, "prepare comes first, and run only once"
        prepared, self._prepared = self._prepared, None
        late = _Late(on_notify)
        with _failing(self.container_id), prepared.undo:
            prepared.restore(first_of(prepared.on_notify, late.ask, prepared.on_agreed))
        if late.error is not None:
            raise late.error
        return Container(self.root, prepared.plan.state)

    def replay(self, frames: Frames) -> int:
        """Give it packets that came for it elsewhere (runtime.network.held), at pre-resume.

        Returns how many it got.
        """
        plan = self._plan
        return 0 if plan is None else replay(plan.networks, plan.state.id, frames)

    def abort(self) -> None:
        """Undo everything that `prepare` made; without effect after `run`, or a second time."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            with suppress(_Aborted), prepared.undo:
                raise _Aborted


class _Prepared:
    """A criu in its place, and what it is told when the images are there."""

    def __init__(self, plan: RestorePlan, undo: Undo) -> None:
        self.plan, self.undo = plan, undo
        self._terminal = taker(plan.spec.process, plan.options.terminal)
        if self._terminal is not None:
            undo.on_error(self._terminal.close)
        self._init_pid = 0
        self._runs = False
        self._cgroup = of_state(plan.state)
        undo.on_error(plan.remove_network)
        self._cgroup.create()
        undo.on_error(self._cgroup.end)
        undo.on_error(self._end_processes)
        # From here on what is in it is ours to kill: only now may others read of it in the state.
        plan.state.save(plan.directory)
        self._streams = plan.options.stdio.open(undo)
        self._namespace = plan.namespace
        self._network = self._make_network()
        place = in_netns(self._network.path) if self._network else nullcontext()
        plan.make_network_ahead()
        self.criu = start_criu(plan, self._streams, self._place, undo, within=place)
        delegation.carry_out(plan.spec, self._cgroup)
        self.criu.require()
        self.criu.features()  # for the probing: where it can be kept, the restore need not do it
        self._late = self._make_late_memory()
        plan.warm_up()
        self._request = plan.criu_options(self.criu.pid)
        self._expected = {plan.record.text(): plan.record}

    def _make_late_memory(self) -> LateMemory | None:
        if not self.plan.waits_for_us:
            return None
        from runtime.checkpoint.late_memory import LateMemory  # noqa: PLC0415 - lazy: seldom needed

        options = self.plan.options
        work_dir = options.work_path or options.image_path
        return self.undo.enter_context(LateMemory(self.criu.pid, work_dir))

    def _place(self, pid: int) -> None:
        """Put criu where all that it restores is to be, and inherits it."""
        self._cgroup.join(pid)
        affinity.reset(pid)
        if self.plan.spec.linux.intel_rdt:
            from runtime import resctrl_group  # noqa: PLC0415 - lazy: few hosts have it

            self.plan.state = resctrl_group.enter(self.plan.state, self.plan.spec, pid, self.undo)
            self.plan.state.save(self.plan.directory)

    def _make_network(self) -> Recreated | None:
        """The namespace that criu then lives in, and so all that it restores.

        Not in a user namespace, to which it has to belong: there CRIU makes it, empty.
        """
        if self.plan.namespace is None or self.plan.spec.linux.user_namespace:
            return None
        network = self.undo.enter_context(Recreated(self.plan.networks, self.plan.state.id))
        network.fill(self.plan.namespace)
        return network

    def restore(self, on_notify: Handler) -> None:
        """The part that needs the images."""
        images_dir = self.plan.options.image_path
        images.check(images_dir)
        # where files are read and written is only known when the container stands still
        record = records.load(images_dir, self.plan.state.id, known=self._expected)
        self.plan.take_resources(record)
        descriptors.set_positions(record.descriptors, self._streams)
        self._fill_tmpfs(images_dir)
        if self._late is not None:
            self._late.take(images_dir)
        if self.plan.shelf.shows_images:
            self.plan.shelf.show_images(images_dir, self.criu.pid)
        self._namespace = record.namespace  # it may have changed up to the freeze
        if self._network is not None and record.namespace is not None:
            self._network.fill(record.namespace)
        try:
            self.criu.restore(self._request, on_notify)
        except CriuError as error:
            if not self._runs:
                raise
            # It has run and may have answered somebody: to end it now would lose what it said.
            logger.warning("container %s runs, though %s", self.plan.state.id, error)

    def _fill_tmpfs(self, images_dir: Path) -> None:
        """They lie in criu's mount namespace."""
        root = f"/proc/{self.criu.pid}/root"
        places = {point: root + place for point, place in self.plan.shelf.tmpfs_places().items()}
        try:
            tmpfs.fill(images_dir, places)
        except ValueError as error:
            why = f"{images_dir / tmpfs.CONTENT_FILE} cannot be used: {error}"
            raise RestoreFailed(self.plan.state.id, why) from error

    def on_notify(self, notification: Notification) -> None:
        """What is ours to do at CRIU's points."""
        match notification.script:
            case Script.ORPHAN_PTS_MASTER:
                self._take_terminal(notification.fds)
            case Script.SETUP_NAMESPACES:
                self._adopt(notification.pid)
                self._fill_network()
                self._run_hooks()
            case Script.POST_RESTORE:
                self._adopt(notification.pid)
                self._complete()
            case Script.PRE_RESUME if self._late is not None:
                self._late.finish()
            case Script.POST_RESUME:
                self._runs = True

    def on_agreed(self, notification: Notification) -> None:
        """After everybody has let it run: only now may it be reached."""
        if notification.script != Script.POST_RESTORE:
            return
        if self._network is not None:
            self._network.connect()
        if self.plan.spec.linux.namespace("network"):  # else its addresses are this host's
            with suppress(OSError, ContainerError):
                announce(f"/proc/{self._init_pid}/ns/net")

    def _take_terminal(self, fds: tuple[int, ...]) -> None:
        """The master of a terminal of the container's, whose holder was outside at the dump."""
        if self._terminal is None or not fds:
            why = "it has a terminal, and process.terminal is not true"
            raise RestoreFailed(self.plan.state.id, why)
        self._terminal.adopt(pty.path_of(fds[0]), os.dup(fds[0]))

    def _adopt(self, pid: int | None) -> None:
        """Note who init is; it is our own child (criu_opts.rst_sibling)."""
        assert pid is not None, "CRIU tells the pid at these points"
        stat = process_stat(pid)
        if stat is None:
            raise RestoreFailed(self.plan.state.id, "its first process has ended already")
        self._init_pid = pid
        self.plan.change_state(init_pid=pid, init_start_time=stat.start_time)

    def _fill_network(self) -> None:
        """The namespace that CRIU has made, where we could make none before."""
        if self._network is None and self.plan.namespace is not None:
            path = f"/proc/{self._init_pid}/ns/net"
            network = Recreated(self.plan.networks, self.plan.state.id, netns=path)
            self._network = self.undo.enter_context(network)
            self._network.fill(self._namespace or self.plan.namespace)

    def _run_hooks(self) -> None:
        """Where network plugins act; no hook of the container's side is run a second time."""
        hooks, state = self.plan.spec.hooks, self.plan.state.oci(Status.CREATING)
        if hooks.prestart or hooks.create_runtime:
            self.undo.on_error(hook_points.run_all, HookName.POSTSTOP, hooks.poststop, state)
        hook_points.run(HookName.PRESTART, hooks.prestart, state)
        hook_points.run(HookName.CREATE_RUNTIME, hooks.create_runtime, state)

    def _complete(self) -> None:
        """All is there and stands still: what makes it a container as any other."""
        descriptors.keep_appending(self.plan.record.descriptors, self._streams, self._init_pid)
        if self.plan.spec.linux.user_namespace:
            message_queues.give_to_root(self.plan.spec, self._init_pid)
        peers.join(self._init_pid, self.plan.peers())
        if self._late is not None:
            self._late.give(self._init_pid, self._cgroup.processes())
        timers.revive(self._cgroup.processes())
        self.plan.adopt_network()
        # Only now: limits slow CRIU down, and devices that it may not open it takes for missing.
        self._cgroup.set(self.plan.spec.linux.resources)
        self.plan.change_state(
            namespace_paths=namespaces.paths_of(self._init_pid),
            external_descriptors=processes.standard_descriptors(self._init_pid),
        )
        self.plan.state.save(self.plan.directory)
        if self.plan.options.pid_file:
            pidfile.write(self.plan.options.pid_file, self._init_pid)

    def _end_processes(self) -> None:
        """CRIU kills what it restores in vain, unless it was killed itself.

        The first process may be there before CRIU has told us of it.
        """
        found = self._cgroup.processes() if self._cgroup.exists() else []
        processes.end(dict.fromkeys([self._init_pid, *found]) if self._init_pid else found)


class _Late:
    """A caller's handler, whose errors are kept for later where CRIU would not heed them."""

    def __init__(self, handler: Handler | None) -> None:
        self._handler = handler
        self.error: Exception | None = None

    def ask(self, notification: Notification) -> None:
        """Ask the handler."""
        if self._handler is None:
            return
        if notification.script not in _TOO_LATE:
            self._handler(notification)
            return
        try:
            self._handler(notification)
        except Exception as error:  # noqa: BLE001 - whatever it is, the container runs
            self.error = self.error or error


class _Aborted(Exception):
    """Makes an Undo undo."""


@contextmanager
def _failing(container_id: str) -> Iterator[None]:
    try:
        yield
    except CriuError as error:
        raise RestoreFailed(container_id, str(error)) from error
    except OSError as error:
        raise RestoreFailed(container_id, reason(error)) from error
