"""Become a criu that finds no private memory in the processes it dumps: a fresh interpreter's work.

CRIU learns from /proc/PID/pagemap which pages a process has, and copies those (criu/mem.c); that
is most of the time of a dump. Here criu gets a mount namespace of its own, and beside it a process
that stays there as a *decoy*: told to `hide` processes, it mounts its own pagemap over theirs.
CRIU then finds, at the addresses of their mappings, no page at all, and dumps all else.

The decoy's own few pages might lie at the same addresses: CRIU then dumps pages that are really
there, which does no harm. The decoy must live as long as the dump: a dead one's pagemap cannot be
opened, and the dump fails, which lets the container go on. proc_pid_pagemap(5).
"""

from __future__ import annotations

import os

from runtime.constants import AT_FDCWD, CLONE_NEWNS, MS_PRIVATE, PR_SET_DUMPABLE
from runtime.process.channel import READY, Channel, ChannelClosed
from runtime.process.steps import Steps
from runtime.syscalls import mount_setattr, move_mount, open_tree, prctl, unshare


def main(number: str, *command: str) -> None:
    """Talk with the runtime on descriptor *number*, then execute *command*; never returns."""
    fd = int(number)
    channel = Channel(fd)
    prctl(PR_SET_DUMPABLE, 0)
    step = Steps(channel)
    try:
        with step("making a mount namespace"):
            unshare(CLONE_NEWNS)
            mount_setattr(AT_FDCWD, "/", propagation=MS_PRIVATE, recursive=True)
        # twice, so that it is no child of criu, which waits for children
        if os.fork() == 0:
            if os.fork() == 0:
                _be_decoy(channel, step, command)
            os._exit(0)
        os.wait()
        os.set_inheritable(fd, False)
        with step(f"executing {command[0]}"):
            os.execv(command[0], command)
    except BaseException as exc:  # noqa: BLE001 - whatever it is, the runtime has to be told
        step.fail(exc)


def _be_decoy(channel: Channel, step: Steps, command: tuple[str, ...]) -> None:
    """Hide the processes that the runtime names, until it hangs up."""
    os.setsid()  # a Ctrl-C on the terminal is not for us
    # criu's socket among them: criu's death must be seen as its end of file
    os.closerange(3, channel.fd)
    os.closerange(channel.fd + 1, 1 << 16)
    try:
        own = f"/proc/{os.getpid()}/pagemap"
        channel.send(READY)
        while True:
            for pid in channel.receive_plan():
                with step(f"hiding the memory of process {pid}"):
                    _mount_over(own, f"/proc/{pid}/pagemap")
            channel.send(READY)
    except ChannelClosed:
        os._exit(0)
    except BaseException as exc:  # noqa: BLE001 - as above
        step.fail(exc)


def _mount_over(path: str, target: str) -> None:
    target_fd = os.open(target, os.O_PATH | os.O_CLOEXEC)
    mount_fd = open_tree(AT_FDCWD, path)
    move_mount(mount_fd, target_fd)
    os.close(mount_fd)
    os.close(target_fd)
