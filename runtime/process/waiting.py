"""Wait for a process that runs in the foreground, and pass on the signals that we get."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from runtime.constants import PR_SET_CHILD_SUBREAPER
from runtime.syscalls import prctl, signalfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.relay import Relay

_SIGINFO_BYTES = 128  # struct signalfd_siginfo, which begins with the number
# About ourselves, not for the container.
_KEPT = frozenset((signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH))


def exit_status(wait_status: int) -> int:
    """What a shell would report: 128 + N for a process that signal N has ended."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


@contextmanager
def signals_held(*, adopting: bool = False) -> Iterator[None]:
    """Keep every signal pending until `wait_forwarding` takes it, or the block ends.

    adopting: `adopt_orphans` too.
    """
    if adopting:
        adopt_orphans()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def adopt_orphans() -> None:
    """Be the parent of what our descendants leave behind from now on (prctl(2)).

    Before any of them runs: an orphan that has got another parent keeps it.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def wait_forwarding(pid: int, relay: Relay | None = None, *, reaping: bool = False) -> int:
    """Wait for our child *pid* while passing on signals; return its exit status, as a shell's.

    To be called in `signals_held`. *relay* carries meanwhile what its terminal and ours say. The
    end is taken from a pidfd and not from SIGCHLD: that may go to another thread. reaping: take
    every other child away too that ends meanwhile, as whoever calls `adopt_orphans` has to.
    """
    with ExitStack() as stack:
        child, signals = os.pidfd_open(pid), signalfd()
        for fd in (child, signals):
            stack.callback(os.close, fd)
        always = {child: select.POLLIN, signals: select.POLLIN}
        while child not in (ready := _await(always, relay)):
            if signals in ready:
                _take_signal(signals, child, relay)
            if reaping:
                _reap_others(pid)
            if relay:
                relay.serve(ready)
        if relay:
            relay.finish()
        _, status = os.waitpid(pid, 0)
        return exit_status(status)


def _reap_others(pid: int) -> None:
    with suppress(ChildProcessError):
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (ended := os.waitid(os.P_ALL, 0, look)) and ended.si_pid != pid:
            os.waitpid(ended.si_pid, 0)


def _await(always: dict[int, int], relay: Relay | None) -> dict[int, int]:
    more, timeout_ms = relay.wanted() if relay else ({}, None)
    poll = select.poll()
    for fd, events in (always | more).items():
        poll.register(fd, events)
    return dict(poll.poll(timeout_ms))


def _take_signal(signals: int, child: int, relay: Relay | None) -> None:
    number = int.from_bytes(os.read(signals, _SIGINFO_BYTES)[:4], sys.byteorder)
    if number == signal.SIGWINCH and relay:
        relay.resize()
    elif number not in _KEPT:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, number)
