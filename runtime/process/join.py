"""A further process in a running container, from a fresh interpreter to the program (exec).

As init: the first process enters the namespaces and forks, the second becomes the program. The
filesystem it comes to belongs to the container, and so may be anything. setns(2), pidfd_open(2).
"""

from __future__ import annotations

import os

from runtime.constants import CLONE_NEWUSER, CLONE_PARENT
from runtime.process import entering, labels, program
from runtime.process.channel import FORKED, GO, READY, ChannelClosed
from runtime.process.steps import begin, seal
from runtime.syscalls import clone3, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.plan import ExecPlan


def main(*numbers: str) -> None:
    """Talk with the runtime and become what it says; never returns. numbers: see `begin`."""
    channel, step = begin(numbers)
    try:
        plan: ExecPlan = channel.receive_plan()
        with step("opening what the host has"):
            proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if plan["terminal"] is not None:
                from runtime.process import pty  # noqa: PLC0415 - lazy: 1 ms
        seal()
        entering.claim(plan["process"], step, proc_fd=proc_fd)
        with step("joining the container's namespaces"):
            # All at once, of the process that the pidfd is: no pid can have been taken over.
            setns(plan["pidfd"], plan["namespaces"])
            if plan["namespaces"] & CLONE_NEWUSER:
                entering.become_root()
        with step("forking"):
            pid = clone3(0 if plan["detach"] else CLONE_PARENT)
        if pid:
            channel.send(FORKED, pid)
            os._exit(0)
        channel.receive(GO)
        with step("making a session"):
            os.setsid()
        with step("joining the session keyring"):
            labels.join_keyring(plan["process"]["labels"], proc_fd=proc_fd, new=False)
        if plan["terminal"] is not None:
            with step("making the terminal"):
                root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                pty.make(root_fd, plan["terminal"], channel, proc_fd=proc_fd)
        ready = program.prepare(plan["process"], step, proc_fd=proc_fd)
        channel.send(READY)
        ready.prepare(step, channel, channel)
        ready.execute(step)
    except ChannelClosed:
        os._exit(1)
    except BaseException as exc:  # noqa: BLE001 - nothing of ours may go on in a container
        step.fail(exc)
