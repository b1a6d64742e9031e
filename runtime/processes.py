"""The processes of a container as a checkpoint and a failed restore see them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from runtime import pidfd

_END_WITHIN_S = 1.0


def strangers(init_pid: int, pids: Iterable[int]) -> list[int]:
    """Those of *pids*, all processes of a container, that do not descend from its init.

    exec has started them. CRIU dumps a tree, so no checkpoint has them.
    """
    inside = {init_pid, *pids}
    parents = {pid: _parent(pid) for pid in inside - {init_pid}}
    return sorted(pid for pid, parent in parents.items() if parent and parent not in inside)


def end(pids: Iterable[int]) -> None:
    """Kill *pids*, and reap those that are our children.

    The init of a pid namespace only ends when the last zombie in it is reaped.
    """
    for pid in pids:
        with suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            pidfd.send(fd, signal.SIGKILL)
            pidfd.await_end(fd, _END_WITHIN_S)
            os.close(fd)
        pidfd.reap(pid)


def tasks_of(pid: int) -> list[int]:
    """Its threads; none when it has ended."""
    with suppress(OSError):
        return [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    return []


def thread_count(pids: Iterable[int]) -> int:
    """How many tasks *pids* have in all."""
    return sum(len(tasks_of(pid)) for pid in pids)


def _parent(pid: int) -> int | None:
    """None when it has ended."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_bytes()
        return int(text[text.rindex(b")") + 1 :].split()[1])
    return None
