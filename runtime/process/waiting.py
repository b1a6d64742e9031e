"""Wait for a process that runs in the foreground, and pass on the signals that we get."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from runtime.syscalls import signalfd

_SIGINFO_BYTES = 128  # struct signalfd_siginfo, which begins with the number
# About ourselves, not for the container.
_KEPT = frozenset((signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH))


def exit_status(wait_status: int) -> int:
    """What a shell would report: 128 + N for a process that signal N has ended."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep every signal pending until `wait_forwarding` takes it, or the block ends."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def wait_forwarding(pid: int) -> int:
    """Wait for our child *pid* while passing on signals; return its exit status, as a shell's.

    To be called in `signals_held`. The end is taken from a pidfd and not from SIGCHLD: that may go
    to another thread.
    """
    with ExitStack() as stack:
        child, signals = os.pidfd_open(pid), signalfd()
        poll = select.poll()
        for fd in (child, signals):
            stack.callback(os.close, fd)
            poll.register(fd, select.POLLIN)
        while child not in (ready := {fd for fd, _ in poll.poll()}):
            if signals in ready:
                _pass_on(signals, child)
        _, status = os.waitpid(pid, 0)
        return exit_status(status)


def _pass_on(signals: int, child: int) -> None:
    number = int.from_bytes(os.read(signals, _SIGINFO_BYTES)[:4], sys.byteorder)
    if number not in _KEPT:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, number)
