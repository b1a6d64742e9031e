"""Let the process of a created container go on to its program (OCI runtime-spec "start")."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import hook_points, pidfd
from runtime.errors import HookFailed, SetupFailed, WrongStatus
from runtime.held import Held
from runtime.hook_points import HookName, InProcessHook
from runtime.oserrors import failing
from runtime.process.channel import WAITING, Channel, ChannelClosed, Failed
from runtime.process.parent import failure
from runtime.seccomp.words import listens, of_spec
from runtime.state import ANSWER_FIFO, EXEC_FIFO, State, Status, derive_status
from runtime.undo import Undo

if TYPE_CHECKING:
    from runtime.container import Container
    from runtime.readiness import Readiness


def begin(container: Container, manager: str) -> Readiness | None:
    """Start the program of *container*, and run its poststart hooks.

    manager: see Container.start; what is returned waits for the container to say that it is ready.
    """
    with Undo() as undo:
        with failing(f"starting container {container.id}"), container.locked():
            ready = _readiness(container, manager)
            if ready:
                undo.on_error(ready.close)
            start(container.state, container.dir)
        run_poststart(container.state, container.hooks.get(HookName.POSTSTART, ()))
    return ready


def _readiness(container: Container, manager: str) -> Readiness | None:
    if not manager:
        return None
    from runtime.readiness import Readiness  # noqa: PLC0415 - lazy: 5 ms, and seldom needed

    return Readiness.of(container.state, container.dir, manager)


def start(state: State, directory: Path) -> None:
    """Start the container's program, and return when it has been executed.

    The caller holds the container's lock. When the program cannot be executed or a startContainer
    hook fails, the container is stopped, and remains to be deleted.
    """
    status = derive_status(state, directory)
    fifo = directory / EXEC_FIFO
    with ExitStack() as stack:
        init = stack.enter_context(pidfd.init_of(state))
        if init is None or status is not Status.CREATED:
            raise WrongStatus(state.id, status, Status.CREATED)
        handing_over = _agent(state, directory, stack)
        _release(state, fifo, init, handing_over)
        fifo.unlink()


def _agent(state: State, directory: Path, stack: ExitStack) -> Callable[[Channel], None] | None:
    """What has to be done before init can go on, where somebody is to listen to its filter.

    SetupFailed when nobody does; the container is as it was then.
    """
    seccomp = of_spec(state.spec)
    if not listens(seccomp):
        return None
    from runtime.seccomp.agent import connected  # noqa: PLC0415 - lazy: 10 ms

    agent = stack.enter_context(connected(state, seccomp, Status.CREATED))
    # For both, so that this waits for nobody; init sees its end when we have gone.
    answer = Channel(os.open(directory / ANSWER_FIFO, os.O_RDWR | os.O_CLOEXEC))
    stack.callback(answer.close)
    return lambda channel: agent.hand_over(state.init_pid, channel, answer)


def _release(
    state: State, fifo: Path, init: int, handing_over: Callable[[Channel], None] | None
) -> None:
    """Let init go on from the fifo that it waits at, and read from there what became of exec.

    The program's start closes the other end without a word; a failure is told before that.
    """
    channel = Channel(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        if not _took(channel, init):
            why = "it has ended: `migrator delete` removes what is left"
            raise SetupFailed(f"starting the process of container {state.id}", why)
        if handing_over:
            handing_over(channel)
        channel.receive("exec")
    except ChannelClosed:
        return
    except Failed as exc:
        _end(state, init)
        raise failure(exc) from None
    except BaseException:  # an interrupt too: it may be on its way, and be started a second time
        _end(state, init)
        raise
    finally:
        channel.close()


def _took(channel: Channel, init: int) -> bool:
    """Take what init waits with; False when it has ended."""
    poll = select.poll()
    poll.register(channel.fd, select.POLLIN)
    poll.register(init, select.POLLIN)
    if channel.fd not in {ready for ready, _ in poll.poll()}:
        return False
    os.set_blocking(channel.fd, True)
    try:
        channel.receive(WAITING)
    except ChannelClosed:
        return False
    return True


def _end(state: State, init: int) -> None:
    """See that init ends: it may wait under a filter that nobody answers for."""
    pidfd.send(init, signal.SIGKILL)
    pidfd.await_end(init)
    Held.reap(state.init_pid)


def run_poststart(state: State, own: Sequence[InProcessHook] = ()) -> None:
    """Run the hooks that follow a start, then *own*; when one fails, the container is killed.

    Not under the lock: a hook may want to do something with the container.
    """
    programs = hook_points.programs_of(state, HookName.POSTSTART)
    if not programs and not own:
        return
    with pidfd.init_of(state) as init:
        try:
            hook_points.run(HookName.POSTSTART, programs, state.oci(Status.RUNNING), own)
        except HookFailed:
            if init is not None:
                _end(state, init)
            raise
