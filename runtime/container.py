"""One container on this host, by its id: the verbs of an OCI runtime and what libcontainer adds.

Each verb asks the kernel for the status first, and holds the container's lock where it changes
something. OCI runtime-spec runtime.md "Operations".
"""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from runtime import pidfd
from runtime.errors import ContainerError, NotPaused, NotRunning, Paused
from runtime.oserrors import failing
from runtime.state import State, Status, check_id, derive_status, lock

if TYPE_CHECKING:
    from runtime.cgroups import CgroupManager
    from runtime.checkpoint.incremental import Written
    from runtime.checkpoint.options import CheckpointOptions
    from runtime.checkpoint.restore_options import RestoreOptions
    from runtime.container_process import ContainerProcess
    from runtime.create import Creation
    from runtime.execute import Execution
    from runtime.held import Held
    from runtime.hook_points import InProcessHooks
    from runtime.notifications import Notifications, PressureLevel
    from runtime.process.pipes import IO
    from runtime.process.stdio import Stdio
    from runtime.process.terminal import Terminal
    from runtime.spec.model import Process, Spec
    from runtime.stats import Stats


class Container:
    """A container that exists; get one by `create` or `load`."""

    def __init__(self, root: Path, state: State) -> None:
        self.root = root
        self.state = state
        #: functions of this process, run by this object's verbs after those of config.json
        self.hooks: InProcessHooks = {}
        self._init: Held | None = None

    @classmethod
    def load(cls, root: Path, container_id: str) -> Self:
        """The container of that id below the state root; NoSuchContainer, CorruptState."""
        return cls(root, State.load(root / check_id(container_id)))

    @classmethod
    def list_all(cls, root: Path) -> list[Self]:
        """Every container below the state root, by id; without those whose state cannot be read."""
        found = []
        for name in sorted(os.listdir(root) if root.is_dir() else ()):
            with suppress(ContainerError):  # made or removed right now, or no container at all
                found.append(cls.load(root, name))
        return found

    @classmethod
    def create(cls, root: Path, container_id: str, bundle: Path, **how: Unpack[Creation]) -> Self:
        """Make a container from *bundle*, up to its process waiting for `start`.

        Raises ContainerError; nothing is then left of it.
        """
        from runtime.create import create  # noqa: PLC0415 - lazy: 5 ms
        from runtime.hook_points import check  # noqa: PLC0415 - lazy: 1 ms

        check(how.get("hooks", {}))
        container = cls(root, create(root, container_id, bundle, **how))
        container.hooks = how.get("hooks", {})
        return container

    @classmethod
    def run(
        cls,
        root: Path,
        container_id: str,
        bundle: Path,
        *,
        detach: bool = False,
        keep: bool = False,
        subreaper: bool = False,
        manager: str = "",
        **how: Unpack[Creation],
    ) -> int:
        """Create and start a container; wait for it, delete it, and return its exit status.

        The signals that this process gets meanwhile go to the container, and what its terminal says
        to *stdio*. detach: return 0 once it has started; its terminal is then *terminal*'s; keep:
        do not delete it; subreaper: be the parent of its orphans, and take the status of all our
        children; manager: as in `start`. When it cannot be started, nothing is left of it.
        """
        from runtime.process import waiting  # noqa: PLC0415 - lazy: 5 ms
        from runtime.process.stdio import Stdio  # noqa: PLC0415 - lazy: 2 ms
        from runtime.process.terminal import in_foreground  # noqa: PLC0415 - lazy: 1 ms
        from runtime.undo import Undo  # noqa: PLC0415 - lazy: 1 ms

        if not detach:
            how["terminal"] = in_foreground(how.get("terminal"))
        terminal = how.get("terminal")
        with Undo() as undo:
            container = cls.create(root, container_id, bundle, **how)
            from runtime.start import begin  # noqa: PLC0415 - lazy: 10 ms, init comes up meanwhile

            undo.on_error(container.delete, force=True)
            if terminal is None or detach:
                container.start(manager=manager)
                return 0
            # From before it runs: what it does may have somebody send us a signal at once.
            with terminal, waiting.signals_held(adopting=subreaper), ExitStack() as stack:
                relay = terminal.relayed(how.get("stdio") or Stdio(), stack)
                if ready := begin(container, manager):
                    ready.pass_on_beside()
                status = waiting.wait_forwarding(container.state.init_pid, relay, reaping=subreaper)
        if not keep:
            container.delete(force=True)
        return status

    @property
    def id(self) -> str:
        """The container's name below its state root."""
        return self.state.id

    @property
    def dir(self) -> Path:
        """Its state directory."""
        return self.root / self.id

    @cached_property
    def cgroup(self) -> CgroupManager:
        """Its cgroups."""
        from runtime.cgroups import of_state  # noqa: PLC0415 - lazy: 10 ms

        return of_state(self.state)

    @cached_property
    def spec(self) -> Spec:
        """Its config.json, as it was when it was created; `set` changes its resources."""
        from runtime.spec.reading import parse, with_resources  # noqa: PLC0415 - lazy: 10 ms

        spec = parse(self.state.spec, self.state.bundle / "config.json")
        return with_resources(spec, self.state.updated_resources)

    @property
    def netns_path(self) -> str:
        """Its network namespace, as long as it lives."""
        return f"/proc/{self.state.init_pid}/ns/net"

    def status(self) -> Status:
        """What it is doing now, by the kernel's word."""
        return derive_status(self.state, self.dir)

    def oci_state(self) -> dict[str, Any]:
        """The OCI state object."""
        return self.state.oci(self.status())

    def start(self, *, manager: str = "") -> None:
        """Let the program of a created container run; returns once it has been executed.

        When it cannot be, or a hook fails, the container is stopped. manager: the socket of
        sd_notify(3), who listens there is told when the container says that it is ready; this
        returns then.
        """
        from runtime.start import begin  # noqa: PLC0415 - lazy: 5 ms

        if ready := begin(self, manager):
            ready.pass_on()

    def exec(
        self,
        process: Process,
        *,
        stdio: Stdio | None = None,
        terminal: Terminal | None = None,
        detach: bool = False,
        **how: Unpack[Execution],
    ) -> int:
        """Run *process* inside, wait for it, and return its exit status; our signals go to it.

        What its terminal says goes to *stdio*. detach: return 0 once it has started; its terminal
        is then *terminal*'s. Raises ContainerError; it then does not run.
        """
        from runtime import execute  # noqa: PLC0415 - lazy: 10 ms
        from runtime.process.stdio import Stdio  # noqa: PLC0415 - lazy: 2 ms

        return execute.execute(
            self, process, stdio=stdio or Stdio(), terminal=terminal, detach=detach, **how
        )

    def spawn(
        self,
        process: Process,
        *,
        io: IO | None = None,
        terminal: Terminal | None = None,
        **how: Unpack[Execution],
    ) -> ContainerProcess:
        """Start *process* inside, and return once it runs; it has to be waited for.

        io: pipes to it, else its standard streams are /dev/null; terminal: has the other end of
        its terminal, if it has one. Raises ContainerError; it then does not run.
        """
        from runtime import execute  # noqa: PLC0415 - lazy: 10 ms

        return execute.spawn(self, process, io=io, terminal=terminal, **how)

    def init_process(
        self, *, io: IO | None = None, terminal: Terminal | None = None
    ) -> ContainerProcess:
        """Its first process, with the other ends that it was created with.

        NotRunning when it has ended and been waited for.
        """
        from runtime.container_process import ContainerProcess  # noqa: PLC0415 - lazy: 2 ms

        if (init := self._held_init()) is None:
            raise NotRunning(self.id, self.status())
        return ContainerProcess(init, io=io, terminal=terminal)

    def _held_init(self) -> Held | None:
        """Its first process; None when it has ended and been waited for."""
        from runtime.held import Held  # noqa: PLC0415 - lazy: 2 ms

        with failing(f"holding the first process of container {self.id}"):
            held = Held.of(self.state.init_pid, self.state.init_start_time)
        self._init = held or self._init
        return held

    def signal(self, number: int, *, everyone: bool = False) -> None:
        """Send signal *number* to init, or to *everyone* in the container.

        SIGKILL without a pid namespace of its own is for everyone: nothing else would end the
        others; it ends paused ones too. Without cgroups init alone is known. NotRunning when there
        is none to get it, but for *everyone*.
        """
        whole = everyone or (number == signals.SIGKILL and not self.state.own_pid_namespace)
        if whole and self.state.cgroup_paths:
            sent = pidfd.send_all(self.cgroup.processes, number) > 0
        else:
            sent = pidfd.send_to_init(self.state, number)
        if not sent and not everyone:
            raise NotRunning(self.id, self.status())
        if sent and number == signals.SIGKILL and self.status() is Status.PAUSED:
            with self.locked():  # cgroup v1: none ends before it is thawed, and none is to go on
                pidfd.send_all(self.cgroup.processes, number)
                self.cgroup.thaw()

    def pause(self) -> None:
        """Freeze all processes of a running container."""
        with self.locked():
            status = self.status()
            if status is Status.PAUSED:
                raise Paused(self.id)
            if not status.has_init:
                raise NotRunning(self.id, status)
            self.cgroup.freeze()

    def resume(self) -> None:
        """Let the processes of a paused container go on."""
        with self.locked():
            if (status := self.status()) is not Status.PAUSED:
                raise NotPaused(self.id, status)
            self.cgroup.thaw()

    def set(self, resources: Mapping[str, Any], *, schemata: Iterable[str] = ()) -> None:
        """Give it other limits while it runs, or is paused or created: a linux.resources.

        What *resources* leave out stays. schemata: lines for its group of Intel RDT. Raises
        NotRunning, InvalidSpec, UnsupportedField, CgroupError, SetupFailed; all its limits are then
        as they were.
        """
        from runtime import resctrl, resctrl_group  # noqa: PLC0415 - lazy: 2 ms
        from runtime.undo import Undo  # noqa: PLC0415 - lazy: 1 ms
        from runtime.update import updated  # noqa: PLC0415 - lazy: 10 ms

        with self.locked(), failing(f"updating container {self.id}"), Undo() as undo:
            if not (status := self.status()).has_init:
                raise NotRunning(self.id, status)
            if schemata := tuple(schemata):
                at = resctrl.root()
                resctrl_group.change(schemata, self.state.init_pid, at=at, undo=undo)
            state = updated(self.state, self.cgroup, resources, undo)
            state.save(self.dir)
        self.state = state
        self.__dict__.pop("spec", None)

    def stats(self) -> Stats:
        """What is counted of it: CPU, memory, I/O, processes, network (libcontainer's Stats).

        NotRunning when it has ended; paused or not yet started, it is counted all the same.
        """
        from runtime import stats  # noqa: PLC0415 - lazy: 10 ms

        try:
            with failing(f"reading the statistics of container {self.id}"):
                found = stats.of(self)
        except ContainerError as exc:
            if (status := self.status()).has_init:
                raise
            raise NotRunning(self.id, status) from exc
        if not (status := self.status()).has_init:
            raise NotRunning(self.id, status)
        return found

    def notify_oom(self) -> Notifications:
        """Be told whenever the OOM killer ends something in it, until it has ended; close it.

        Raises NotRunning, CgroupError where the host has no memory controller.
        """
        from runtime import notifications  # noqa: PLC0415 - lazy: 5 ms

        return notifications.watch(self, notifications.oom_source)

    def notify_memory_pressure(self, level: PressureLevel | str) -> Notifications:
        """Be told whenever its memory is as scarce as *level*, until it has ended; close it.

        Raises as notify_oom does, and ValueError for what is no level.
        """
        from runtime import notifications  # noqa: PLC0415 - lazy: 5 ms

        wanted = notifications.PressureLevel(level)
        return notifications.watch(self, partial(notifications.pressure_source, level=wanted))

    def checkpoint(self, options: CheckpointOptions, *, parent_path: str | None = None) -> None:
        """Write it to an image directory, and remove it unless it is left running.

        parent_path: of the last `pre_dump`, relative to the new directory. Raises WrongStatus,
        CheckpointFailed, ContainerBusy; it then runs as before, and no image is left.
        """
        from runtime.checkpoint import dump, incremental  # noqa: PLC0415 - lazy: 60 ms

        if parent_path is None:
            dump.checkpoint(self, options)
        else:
            incremental.checkpoint(self, options, parent_path)

    def pre_dump(self, options: CheckpointOptions, *, parent_path: str | None = None) -> Written:
        """Copy its memory into an image directory while it runs on, for a later `checkpoint`.

        parent_path: of the `pre_dump` before. Raises as `checkpoint` does.
        """
        from runtime.checkpoint import incremental  # noqa: PLC0415 - lazy: 60 ms

        return incremental.pre_dump(self, options, parent_path)

    @classmethod
    def restore(
        cls, root: Path, container_id: str, bundle: Path, options: RestoreOptions
    ) -> Container:
        """Make a container from an image directory, as it ran; returns when it runs.

        It is our child, as a created one. Raises RestoreFailed, ContainerExists, InvalidNetwork and
        the like; nothing is then left of it.
        """
        from runtime.checkpoint.restore import Restore  # noqa: PLC0415 - lazy: 60 ms

        restoring = Restore(root, container_id, bundle, options)
        restoring.prepare()
        return restoring.run()

    def processes(self) -> list[int]:
        """The pids of all processes in it, as this host numbers them."""
        return self.cgroup.processes()

    def wait(self) -> int | None:
        """Wait until init has ended; its status as a shell reports it, None if it is no child."""
        init = self._held_init() or self._init
        return init.wait() if init else None

    def delete(self, *, force: bool = False) -> None:
        """Remove it: state, cgroups, network; *force* kills it first. The bundle stays."""
        from runtime.hook_points import HookName, run_all  # noqa: PLC0415 - lazy: 1 ms

        self.remove(self.root, self.id, force=force)
        own = self.hooks.get(HookName.POSTSTOP, ())
        run_all(HookName.POSTSTOP, (), self.state.oci(Status.STOPPED), own)

    def destroy(self) -> None:
        """`delete` of one that has ended; StillRunning for any other."""
        self.delete()

    @staticmethod
    def remove(root: Path, container_id: str, *, force: bool = False) -> None:
        """`delete` where the state may be missing or broken; with *force* there need be none."""
        from runtime.delete import delete  # noqa: PLC0415 - lazy: 10 ms

        delete(root, container_id, force=force)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold its lock, with the state as it is now: no other command changes it meanwhile."""
        with lock(self.dir):
            self.state = State.load(self.dir)
            yield
