"""Containers and their processes as a program keeps them that runs many: libcontainerd, no daemon.

Processes have names, the first is INIT. What happens is told as events, by a loop of the caller's:

    supervisor = Supervisor(Path("/run/migrator"))
    supervisor.create("web", Path("/bundles/web"))
    supervisor.start("web")
    for event in supervisor:
        print(event)

Nothing ends with this object: the containers run on, and another one can `attach` to them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Unpack

from criu_rpc.logger import Logger
from runtime import pidfd
from runtime.container import Container
from runtime.errors import ContainerError, NoSuchProcess, ProcessExists
from runtime.events import INIT, Change, Event, EventQueue
from runtime.held import Closing
from runtime.state import Status
from runtime.undo import Undo

if TYPE_CHECKING:
    from runtime.checkpoint.options import CheckpointOptions
    from runtime.checkpoint.restore_options import RestoreOptions
    from runtime.container_process import ContainerProcess
    from runtime.create import Creation
    from runtime.execute import Execution
    from runtime.notifications import Notifications
    from runtime.process.pipes import IO
    from runtime.process.terminal import Terminal
    from runtime.spec.model import Process

logger = Logger(__name__)

__all__ = ["INIT", "Change", "Event", "Summary", "Supervisor"]

_END_WITHIN_S = 10.0


class Summary(NamedTuple):
    """One process in a container."""

    pid: int
    command: str
    #: "" for those that the container has started itself
    name: str = ""


class Supervisor(Closing):
    """The containers below one state root that this program cares for; a context manager.

    The processes that it returns are waited for here, whether the caller does too, closes them or
    forgets them; their pipes and terminals are the caller's to close. Verbs may be called while
    other threads wait for events.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._containers: dict[str, Container] = {}
        self._processes: dict[str, dict[str, ContainerProcess]] = {}
        self._oom: dict[str, Notifications] = {}
        self._had_oom: set[str] = set()
        self._made: dict[str, tuple[Path, Creation]] = {}
        #: names of processes that are being started
        self._reserved: set[tuple[str, str]] = set()
        self._events = EventQueue()
        #: held where an end is told of, so that it is told of once, and by nobody for another's
        self._lock = threading.RLock()

    def close(self) -> None:
        """Care for nothing more; the containers run on, without our ends of their pipes."""
        with self._lock:
            self._events.close()  # first: after a fork the other side's are heeded on
            for container_id in {**self._containers, **self._processes}:
                self._forget(container_id)

    def container(self, container_id: str) -> Container:
        """One of those that are cared for, for all that is no event: stats, set, processes ..."""
        return self._containers.get(container_id) or Container.load(self.root, container_id)

    def process(self, container_id: str, name: str = INIT) -> ContainerProcess:
        """A process that runs, to signal or resize it or to close its input; NoSuchProcess."""
        with self._lock:
            try:
                return self._processes[container_id][name].shared()
            except KeyError:
                raise NoSuchProcess(container_id, name) from None

    def create(
        self,
        container_id: str,
        bundle: Path,
        *,
        io: IO | None = None,
        **how: Unpack[Creation],
    ) -> ContainerProcess:
        """Make a container; its process waits for `start`. Raises as Container.create does.

        io: pipes to it.
        """
        return self._create(Change.CREATE, container_id, bundle, io, how)

    def start(self, container_id: str) -> None:
        """Let its program run; when that cannot be, it has ended. Raises as Container.start."""
        init = self.process(container_id)
        self._events.unwatch(init.fileno())  # its end is told of after its start
        try:
            self.container(container_id).start()
            self._events.tell(Event(container_id, Change.START, pid=init.pid))
        finally:
            self._watch(container_id, INIT)

    def restart(
        self, container_id: str, *, io: IO | None = None, **anew: Unpack[Creation]
    ) -> ContainerProcess:
        """Make one that has ended anew, as `create` has made it, and start it.

        When, and how often, is for who reads the events to say. anew: what is another now; its
        terminal, its streams and whatever else are descriptors of the caller's are to be given
        each time. Raises StillRunning, and as `create` and `start` do, after the first of which
        there is none any more; NoSuchProcess where it was not created here.
        """
        if container_id not in self._made:
            raise NoSuchProcess(container_id, INIT)
        bundle, how = self._made[container_id]
        self.container(container_id).delete()
        self._tell_ends(container_id)
        self._let_go(container_id)
        try:
            made = self._create(Change.RESTART, container_id, bundle, io, {**how, **anew})
        except BaseException:
            self._gone(container_id)
            raise
        self.start(container_id)
        return made

    def exec(
        self,
        container_id: str,
        name: str,
        process: Process,
        *,
        io: IO | None = None,
        terminal: Terminal | None = None,
        **how: Unpack[Execution],
    ) -> ContainerProcess:
        """Run a further process, called *name*. Raises ProcessExists, and as Container.spawn."""
        with self._new(container_id, name), Undo() as undo:
            if name == INIT:
                raise ProcessExists(container_id, name)
            container = self.container(container_id)
            started = container.spawn(process, io=io, terminal=terminal, **how)
            undo.on_error(started.signal, signal.SIGKILL)
            return self._keep(container, name, started, Change.START_PROCESS)

    def attach(
        self, container_id: str, *, io: IO | None = None, terminal: Terminal | None = None
    ) -> ContainerProcess:
        """Care for a container that somebody else has made, or an earlier run of this program.

        Raises NoSuchContainer, NotRunning; ProcessExists where it is cared for already.
        """
        with self._new(container_id, INIT):
            container = Container.load(self.root, container_id)
            return self._care(container, Change.RESTORE, io, terminal)

    def restore(self, container_id: str, bundle: Path, options: RestoreOptions) -> ContainerProcess:
        """Make a container from an image directory. Raises as Container.restore does."""
        container = Container.restore(self.root, container_id, bundle, options)
        return self._care_or_delete(container, Change.RESTORE, None, options.terminal)

    def checkpoint(self, container_id: str, options: CheckpointOptions) -> None:
        """Write it to an image directory, and remove it unless it is left running."""
        self.container(container_id).checkpoint(options)
        self._events.tell(Event(container_id, Change.CHECKPOINT))
        if not options.leave_running:
            self._gone(container_id)

    def pause(self, container_id: str) -> None:
        """Freeze all its processes."""
        self.container(container_id).pause()
        self._events.tell(Event(container_id, Change.PAUSE))

    def resume(self, container_id: str) -> None:
        """Let them go on."""
        self.container(container_id).resume()
        self._events.tell(Event(container_id, Change.RESUME))

    def summary(self, container_id: str) -> list[Summary]:
        """Every process in it, with the name of those that were started from here."""
        kept = self._processes.get(container_id, {})
        names = {process.pid: name for name, process in kept.items()}
        found = []
        for pid in self.container(container_id).processes():
            with suppress(OSError):  # it has ended meanwhile
                command = Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
                found.append(Summary(pid, command, names.get(pid, "")))
        return found

    def delete(self, container_id: str, *, force: bool = False) -> None:
        """Remove it; *force* ends its processes before. StillRunning without."""
        container = self.container(container_id)
        if force:
            self._end(container)
        container.delete(force=force)
        self._gone(container_id)

    def fileno(self) -> int:
        """A descriptor that is readable when there may be an event; ask with `wait(0)` then."""
        return self._events.fileno()

    def wait(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when there was none within *timeout_s*."""
        return self._events.wait(timeout_s)

    def __iter__(self) -> Iterator[Event]:
        """Every event, until no container is cared for any more."""
        while self._has_more() and (event := self.wait()):
            yield event

    def _has_more(self) -> bool:
        with self._lock:
            return bool(self._containers or self._events)

    def _create(
        self, change: Change, container_id: str, bundle: Path, io: IO | None, how: Creation
    ) -> ContainerProcess:
        from runtime.create import repeatable  # noqa: PLC0415 - lazy: 5 ms

        if io is not None:
            how = {**how, "stdio": io.stdio}
        container = Container.create(self.root, container_id, bundle, **how)
        if io is not None:
            io.hand_over()
        made = self._care_or_delete(container, change, io, how.get("terminal"))
        self._made[container_id] = (bundle, repeatable(how))
        return made

    def _care_or_delete(
        self, container: Container, change: Change, io: IO | None, terminal: Terminal | None
    ) -> ContainerProcess:
        """Care for one that has just been made; when that cannot be, nothing is left of it."""
        with Undo() as undo:
            undo.on_error(container.delete, force=True)
            return self._care(container, change, io, terminal)

    def _care(
        self, container: Container, change: Change, io: IO | None, terminal: Terminal | None
    ) -> ContainerProcess:
        with Undo() as undo:
            init = container.init_process(io=io, terminal=terminal)
            self._tell_ends(container.id)  # of a former one, which somebody else has removed
            self._let_go(container.id)
            undo.on_error(self._forget, container.id)
            self._containers[container.id] = container
            try:
                self._oom[container.id] = oom = container.notify_oom()
                self._events.watch(oom.fileno(), partial(self._heed_oom, container.id))
            except ContainerError as exc:  # no memory controller, or no cgroup at all
                logger.debug("nobody tells when %s runs out of memory: %s", container.id, exc)
            return self._keep(container, INIT, init, change)

    @contextmanager
    def _new(self, container_id: str, name: str) -> Iterator[None]:
        """Have nobody else start a process of that name meanwhile; ProcessExists."""
        key = (container_id, name)
        with self._lock:
            if key in self._reserved or name in self._processes.get(container_id, ()):
                raise ProcessExists(container_id, name)
            self._reserved.add(key)
        try:
            yield
        finally:
            self._reserved.remove(key)

    def _keep(
        self, container: Container, name: str, process: ContainerProcess, change: Change
    ) -> ContainerProcess:
        """Care for *process*; the caller's own hold of it."""
        with self._lock:
            self._processes.setdefault(container.id, {})[name] = process
            self._events.tell(Event(container.id, change, name, process.pid))
            self._watch(container.id, name)
            return process.shared()

    def _watch(self, container_id: str, name: str) -> None:
        with self._lock:
            if process := self._processes.get(container_id, {}).get(name):
                self._events.watch(process.fileno(), partial(self._ended, container_id, name))

    def _ended(self, container_id: str, name: str, within_s: float = 0) -> None:
        """Tell of the end of a process, if it is its.

        Another thread may have told of it, and its descriptor have become another process's.
        """
        with self._lock:
            process = self._processes.get(container_id, {}).get(name)
            if process is None or not pidfd.await_end(process.fileno(), within_s):
                return
            self._events.unwatch(process.fileno())
            del self._processes[container_id][name]
            change, oom_killed = Change.EXIT_PROCESS, False
            if name == INIT:
                self._heed_oom(container_id)
                change, oom_killed = Change.EXIT, container_id in self._had_oom
            status = process.wait()
            self._events.tell(Event(container_id, change, name, process.pid, status, oom_killed))

    def _heed_oom(self, container_id: str) -> None:
        with self._lock:
            if not (oom := self._oom.get(container_id)):
                return
            for _ in range(oom.wait(0)):
                self._had_oom.add(container_id)
                self._events.tell(Event(container_id, Change.OOM))
            if oom.ended:
                self._events.unwatch(oom.fileno())
                self._oom.pop(container_id).close()

    def _end(self, container: Container) -> None:
        """Kill what was started from here, and tell of each end."""
        kept = dict(reversed(self._processes.get(container.id, {}).items()))
        for process in kept.values():
            process.signal(signal.SIGKILL)
        if kept and container.status() is Status.PAUSED:
            container.resume()  # cgroup v1: a frozen process ends only then
        self._tell_ends(container.id)  # if one stays, who is to remove the container says why

    def _gone(self, container_id: str) -> None:
        """All in it has ended: tell of those ends that nobody has heard of, then of its own."""
        with self._lock:  # before somebody asks whether there will be more
            self._tell_ends(container_id)
            self._events.tell(Event(container_id, Change.DELETE))
            self._forget(container_id)

    def _tell_ends(self, container_id: str) -> None:
        for name in reversed(list(self._processes.get(container_id, ()))):
            self._ended(container_id, name, _END_WITHIN_S)

    def _forget(self, container_id: str) -> None:
        self._let_go(container_id)
        self._containers.pop(container_id, None)
        self._made.pop(container_id, None)

    def _let_go(self, container_id: str) -> None:
        """Close what is held of it."""
        with self._lock:
            self._had_oom.discard(container_id)
            if oom := self._oom.pop(container_id, None):
                self._events.unwatch(oom.fileno())
                oom.close()
            for process in self._processes.pop(container_id, {}).values():
                self._events.unwatch(process.fileno())
                process.close()
