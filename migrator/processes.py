"""Processes known by pid and start time, so that a reused pid is never taken for them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from migrator.errors import MigrationError
from runtime.state import is_alive, process_stat

DEATH_TIMEOUT_S = 30.0


def identity(pid: int) -> list[int]:
    """[pid, start time] as journals keep them; the start time is 0 for a process that is gone."""
    stat = process_stat(pid)
    return [pid, stat.start_time if stat else 0]


def kill(pid: int, start_time: int) -> None:
    """SIGKILL that very process and wait for its end."""
    if is_alive(pid, start_time):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await_death(pid, start_time)


def await_death(pid: int, start_time: int, timeout_s: float = DEATH_TIMEOUT_S) -> None:
    """Wait until that very process has ended; MigrationError names one that does not."""
    deadline = time.monotonic() + timeout_s
    while is_alive(pid, start_time):
        if time.monotonic() > deadline:
            raise MigrationError(
                f"process {pid} does not end: look why, then run migrator resolve again"
            )
        time.sleep(0.005)
