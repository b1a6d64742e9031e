"""A further process in a running container, waited for here or given to the caller (runc exec)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from runtime.container_process import ContainerProcess
from runtime.held import Held
from runtime.oserrors import failing
from runtime.process.exec import launch
from runtime.process.stdio import Stdio
from runtime.process.terminal import Terminal, in_foreground, sized
from runtime.process.waiting import signals_held, wait_forwarding
from runtime.reserve import preserved
from runtime.undo import Undo

if TYPE_CHECKING:
    from runtime.cgroups.sub import SubCgroups
    from runtime.container import Container
    from runtime.process.pipes import IO
    from runtime.spec.model import Process


class Execution(TypedDict, total=False):
    """What can be said of a further process beside what it is."""

    pid_file: Path | None
    #: a unix socket, who listens there gets it as a pidfd
    pidfd_socket: Path | None
    #: how many descriptors after the standard three it gets
    preserve_fds: int
    #: descriptors of ours that it gets after those, whatever their numbers here
    extra_fds: Sequence[int]
    #: what it gets when the thread that has started it ends (prctl(2) PR_SET_PDEATHSIG); 0: nothing
    parent_death_signal: int
    #: in a paused container it starts on `resume`
    ignore_paused: bool
    #: those below the container's cgroups that it is put into, by controller
    sub_cgroups: SubCgroups


def execute(
    container: Container,
    process: Process,
    *,
    stdio: Stdio,
    terminal: Terminal | None,
    detach: bool,
    **how: Unpack[Execution],
) -> int:
    """Run *process*, and wait for it unless it is detached; its exit status, or 0."""
    if not detach:
        terminal = in_foreground(terminal)
        process = sized(process, stdio) if process.terminal else process
    with Undo() as undo:
        if terminal is not None:
            undo.on_error(terminal.close)

        def hold() -> None:
            undo.enter_context(signals_held())

        started = _launch(container, process, stdio, terminal, detach=detach, hold=hold, how=how)
        if terminal is None or detach:
            return 0
        undo.on_error(started.end)
        undo.enter_context(terminal)
        return wait_forwarding(started.pid, terminal.relayed(stdio, undo))


def spawn(
    container: Container,
    process: Process,
    *,
    io: IO | None,
    terminal: Terminal | None,
    **how: Unpack[Execution],
) -> ContainerProcess:
    """Start *process* as a child of ours, with its other ends."""
    stdio = io.stdio if io else Stdio()
    with Undo() as undo:
        if terminal is not None:
            undo.on_error(terminal.close)
        started = _launch(container, process, stdio, terminal, detach=False, hold=None, how=how)
    if io is not None:
        io.hand_over()
    return ContainerProcess(started, io=io, terminal=terminal)


def _launch(
    container: Container,
    process: Process,
    stdio: Stdio,
    terminal: Terminal | None,
    *,
    detach: bool,
    hold: Callable[[], object] | None,
    how: Execution,
) -> Held:
    ignore_paused = how.get("ignore_paused", False)
    extra_fds = preserved(how.get("preserve_fds", 0), how.get("extra_fds", ()))
    # What is started in a paused container only comes up after `resume`, which locks too.
    with (
        failing(f"running a process in container {container.id}"),
        nullcontext() if ignore_paused else container.locked(),
    ):
        return launch(
            container.state,
            container.dir,
            process,
            stdio=stdio,
            terminal=terminal,
            pid_file=how.get("pid_file"),
            extra_fds=extra_fds,
            parent_death_signal=how.get("parent_death_signal", 0),
            detach=detach,
            ignore_paused=ignore_paused,
            sub_cgroups=how.get("sub_cgroups", {}),
            pidfd_socket=how.get("pidfd_socket"),
            before_it_runs=hold or nullcontext,
        )
