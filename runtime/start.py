"""Let the process of a created container go on to its program (OCI runtime-spec "start")."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from runtime import hook_points, pidfd
from runtime.delete import hooks_of
from runtime.errors import HookFailed, SetupFailed, WrongStatus
from runtime.process.channel import Channel, ChannelClosed, Failed
from runtime.process.parent import failure
from runtime.state import EXEC_FIFO, State, Status, derive_status


def start(state: State, directory: Path) -> None:
    """Start the container's program, and return when it has been executed.

    The caller holds the container's lock. When the program cannot be executed or a startContainer
    hook fails, the container is stopped, and remains to be deleted.
    """
    status = derive_status(state, directory)
    fifo = directory / EXEC_FIFO
    with pidfd.init_of(state) as init:
        if init is None or status is not Status.CREATED:
            raise WrongStatus(state.id, status, Status.CREATED)
        _release(state, fifo, init)
        fifo.unlink()


def _release(state: State, fifo: Path, init: int) -> None:
    """Open the fifo that init waits at, and read from it what became of exec.

    The program's start closes the other end without a word; a failure is told before that.
    """
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    channel = Channel(fd)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(init, select.POLLIN)
        if fd not in {ready for ready, _ in poll.poll()}:
            why = "it has ended: `migrator delete` removes what is left"
            raise SetupFailed(f"starting the process of container {state.id}", why)
        os.set_blocking(fd, True)
        channel.receive("exec")
    except ChannelClosed:
        return
    except Failed as exc:
        pidfd.await_end(init)
        pidfd.reap(state.init_pid)
        raise failure(exc) from None
    finally:
        channel.close()


def run_poststart(state: State) -> None:
    """Run the hooks that follow a start; when one fails, the container is killed.

    Not under the lock: a hook may want to do something with the container.
    """
    if not hooks_of(state, "poststart"):
        return
    from runtime.spec import parse  # noqa: PLC0415 - lazy: 10 ms

    spec = parse(state.spec, state.bundle / "config.json")
    with pidfd.init_of(state) as init:
        try:
            hook_points.run("poststart", spec.hooks.poststart, state.oci(Status.RUNNING))
        except HookFailed:
            if init is not None:
                pidfd.send(init, signal.SIGKILL)
                pidfd.await_end(init)
                pidfd.reap(state.init_pid)
            raise
