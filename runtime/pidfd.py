"""A process held by descriptor, so that no reused pid is ever signalled (pidfd_open(2))."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.oserrors import failing
from runtime.state import State, is_alive

if TYPE_CHECKING:
    from socket import socket


@contextmanager
def init_of(state: State) -> Iterator[int | None]:
    """The pidfd of the container's init, None when it has ended."""
    with ExitStack() as stack:
        yield _open(state, stack)


def _open(state: State, stack: ExitStack) -> int | None:
    if not state.init_pid:
        return None
    try:
        pidfd = os.pidfd_open(state.init_pid)
    except ProcessLookupError:
        return None
    stack.callback(os.close, pidfd)
    # Asked after opening: whatever the descriptor holds now had this pid then.
    return pidfd if is_alive(state.init_pid, state.init_start_time) else None


def send(pidfd: int, number: int) -> bool:
    """Send a signal; False when the process has ended."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def send_to_init(state: State, number: int) -> bool:
    """Send a signal to the container's init; False when it has ended."""
    with init_of(state) as init:
        return init is not None and send(init, number)


@contextmanager
def listening(path: Path | None) -> Iterator[socket | None]:
    """A connection to who listens at *path* for a pidfd; None: nobody is to get one.

    Raises SetupFailed; to be asked before anything is made.
    """
    if path is None:
        yield None
        return
    from runtime.socket_path import connect  # noqa: PLC0415 - lazy: 5 ms, and seldom needed

    with failing(f"connecting to the pidfd socket {path}"):
        connection = connect(path)
    with connection:
        yield connection


def hand_over(pidfd: int, connection: socket) -> None:
    """Send *pidfd*, and beside it its name, as runc(8) "--pidfd-socket" has it. Raises OSError."""
    from runtime.process import passing  # noqa: PLC0415 - lazy: 1 ms, and seldom needed

    passing.send(connection.fileno(), b"pidfd", pidfd)


def await_end(pidfd: int, timeout_s: float | None = None) -> bool:
    """Wait until the process has ended; False after *timeout_s*."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def send_all(processes: Callable[[], list[int]], number: int) -> int:
    """Send a signal to each of *processes*, and return how many have got it.

    They are asked for twice: what is still there then is what the descriptor holds.
    """
    with ExitStack() as stack:
        held = {}
        for pid in processes():
            with suppress(ProcessLookupError):
                held[pid] = os.pidfd_open(pid)
                stack.callback(os.close, held[pid])
        return sum(send(held[pid], number) for pid in processes() if pid in held)
