"""When pages cannot be served any more: no process may go on with zeros in their place."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

from runtime.memory.lazy.placing import alive
from runtime.memory.lazy.spaces import Space


def kill_all(spaces: Iterable[Space]) -> None:
    """Kill the processes of *spaces* and what they have started; return when all have ended.

    Their descriptors stay open until then: who waits for a page waits on. A frozen process ends
    when it is thawed.
    """
    held = list(spaces)
    pidfds = [space.pidfd for space in held if space.pidfd >= 0]
    for pidfd in pidfds + _descendants(pidfds):
        with suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    while any(space.uffd >= 0 and alive(space.uffd) for space in held):
        time.sleep(0.01)


def _descendants(pidfds: list[int]) -> list[int]:
    """Pidfds of the children of the processes, and of theirs."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat") as file:
            # proc(5): the name, in parentheses, may have any character
            children.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(
                int(name)
            )
    found, todo = [], [pid for pid in map(_pid, pidfds) if pid > 0]
    while todo:
        for pid in children.get(todo.pop(), ()):
            todo.append(pid)
            with suppress(OSError):
                found.append(os.pidfd_open(pid))
    return found


def _pid(pidfd: int) -> int:
    """The pid that *pidfd* is of; 0 or less when the process has ended."""
    with suppress(OSError), open(f"/proc/self/fdinfo/{pidfd}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return 0
