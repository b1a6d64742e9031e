"""The processes of a container, seen from outside."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from runtime import pidfd
from runtime.held import Held
from runtime.state import process_stat

_END_WITHIN_S = 1.0


def strangers(init_pid: int, pids: Iterable[int]) -> list[int]:
    """Those of *pids*, all processes of a container, that do not descend from its init.

    exec has started them. CRIU dumps a tree, so no checkpoint has them.
    """
    inside = {init_pid, *pids}
    found = {pid: process_stat(pid) for pid in inside - {init_pid}}
    return sorted(pid for pid, stat in found.items() if stat and stat.parent not in inside | {0})


def zombies_beside(init_pid: int) -> list[int]:
    """Our children that have ended in the pid namespace of *init_pid*, if that is not ours.

    exec has started them, and no cgroup has them any more. Source: proc_pid_children(5).
    """
    namespace = _pid_namespace(init_pid)
    if namespace in ("", _pid_namespace(os.getpid())):
        return []
    children: list[int] = []
    for task in tasks_of(os.getpid()):
        with suppress(OSError):
            file = Path(f"/proc/self/task/{task}/children")
            children += map(int, file.read_text().split())
    ended = (pid for pid in children if (stat := process_stat(pid)) and stat.state == "Z")
    return [pid for pid in ended if _pid_namespace(pid) == namespace]


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
        Held.reap(pid)


def tasks_of(pid: int) -> list[int]:
    """Its threads; none when it has ended."""
    with suppress(OSError):
        return [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    return []


def vpid_of(pid: int) -> int:
    """Its pid in the innermost pid namespace. proc_pid_status(5)."""
    for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
        if line.startswith(b"NSpid:"):
            return int(line.split()[-1])
    return pid


def standard_descriptors(pid: int) -> list[str]:
    """Where 0 to 2 of *pid* lead (proc_pid_fd(5)); "" for what is closed, or not for us to see."""
    found = []
    for fd in range(3):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            found.append("")
    return found


def thread_count(pids: Iterable[int]) -> int:
    """How many tasks *pids* have in all."""
    return sum(len(tasks_of(pid)) for pid in pids)


def _pid_namespace(pid: int) -> str:
    """ "" when it is gone, or not for us to see."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""
