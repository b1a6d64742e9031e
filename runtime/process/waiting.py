"""Wait for a process that runs in the foreground, and pass on the signals that we get."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

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

    To be called in `signals_held`. The child is not reaped before its status is returned, so its
    pid cannot be another's.
    """
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return exit_status(status)
        received = signal.sigwaitinfo(signal.valid_signals()).si_signo
        if received not in _KEPT:
            os.kill(pid, received)
