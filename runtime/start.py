"""Let the process of a created container go on to its program (OCI runtime-spec "start")."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import hook_points, pidfd
from runtime.errors import HookFailed, SetupFailed, WrongStatus
from runtime.held import Held
from runtime.hook_points import HookName, InProcessHook
from runtime.oserrors import failing
from runtime.process.channel import GO, Channel, ChannelClosed, Failed
from runtime.process.parent import failure
from runtime.seccomp.words import listens, of_spec
from runtime.state import ANSWER_FIFO, EXEC_FIFO, State, Status, derive_status
from runtime.undo import Undo

if TYPE_CHECKING:
    from runtime.container import Container
    from runtime.readiness import Readiness
    from runtime.seccomp.agent import Agent


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
    with ExitStack() as stack:
        init = stack.enter_context(pidfd.init_of(state))
        if init is None or status is not Status.CREATED:
            raise WrongStatus(state.id, status, Status.CREATED)
        agent = _agent(state, stack)
        _release(state, directory, init, agent)
        for name in (EXEC_FIFO, ANSWER_FIFO):
            (directory / name).unlink()


def _agent(state: State, stack: ExitStack) -> Agent | None:
    """Who is to listen to init's filter, where somebody is.

    SetupFailed when nobody does; the container is as it was then.
    """
    seccomp = of_spec(state.spec)
    if not listens(seccomp):
        return None
    from runtime.seccomp.agent import connected  # noqa: PLC0415 - lazy: 10 ms

    return stack.enter_context(connected(state, seccomp, Status.CREATED))


def _release(state: State, directory: Path, init: int, agent: Agent | None) -> None:
    """Let init go on, and read from it what became of exec.

    The program's start closes the other end without a word; a failure is told before that.
    """
    fd = os.open(directory / EXEC_FIFO, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    channel = Channel(fd)
    # For both, so that this waits for nobody; init sees its end when we have gone.
    answer = Channel(os.open(directory / ANSWER_FIFO, os.O_RDWR | os.O_CLOEXEC))
    try:
        answer.send(GO)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(init, select.POLLIN)
        if fd not in {ready for ready, _ in poll.poll()}:
            why = "it has ended: `migrator delete` removes what is left"
            raise SetupFailed(f"starting the process of container {state.id}", why)
        os.set_blocking(fd, True)
        if agent:
            agent.hand_over(state.init_pid, channel, answer)
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
        answer.close()


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
