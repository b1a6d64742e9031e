"""Prepare the place that criu restores a container in, and become criu: a fresh interpreter's work.

In a mount namespace of its own, so that no mount is left behind whoever is killed: the rootfs as a
mount of its own, as CRIU wants it (criu(8) --root), its mount points made. All mounts in it are
slaves of the host's, so that CRIU can make those of the container that again. In the container's
cgroups, cgroup namespace and session keyring, with the I/O priority, memory policy and personality
of its spec: what is restored inherits them, and CRIU knows nothing of them. mount_namespaces(7),
session-keyring(7), ioprio_set(2), set_mempolicy(2), personality(2).
"""

from __future__ import annotations

import os

from runtime.constants import (
    AT_FDCWD,
    CLONE_NEWCGROUP,
    CLONE_NEWNS,
    MS_SHARED,
    MS_SLAVE,
    PR_SET_DUMPABLE,
    PR_SET_THP_DISABLE,
)
from runtime.process import entering, labels, scheduled, shelving
from runtime.process.channel import READY, Channel, ChannelClosed
from runtime.process.steps import Steps
from runtime.rootfs import mounting
from runtime.rootfs.resolve import make_directory
from runtime.rootfs.sources import Sources
from runtime.syscalls import mount_setattr, prctl, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.plan import RestorePlan


def main(number: str, *command: str) -> None:
    """Talk with the runtime on descriptor *number*, then execute *command*; never returns."""
    fd = int(number)
    channel = Channel(fd)
    # not steps.begin: what was inherited is for criu
    prctl(PR_SET_DUMPABLE, 0)
    step = Steps(channel)
    try:
        plan: RestorePlan = channel.receive_plan()
        with step("making a mount namespace"):
            unshare(CLONE_NEWNS | (CLONE_NEWCGROUP if plan["cgroup_namespace"] else 0))
            mount_setattr(AT_FDCWD, "/", propagation=MS_SLAVE, recursive=True)
        _make_mount_points(plan, channel, step)
        with step("mounting the rootfs"):
            sources = Sources(plan["rootfs"], {})
            os.close(mounting.attach(plan["rootfs"], sources.rootfs()))
        with step("opening what the container has mounted"):
            shelf = shelving.Opened(plan["shelf"])
        if plan["private_tmp"]:
            # CRIU makes a directory in /tmp (mount-v2.c), and leaves it there when it is killed
            with step("mounting a /tmp for criu"):
                shelving.mount_tmpfs("/tmp", {})
        with step("mounting what criu is given"):
            shelf.mount()
            if plan["receives"]:
                # where the host's are private there is a peer group too, for as long as criu lives
                mount_setattr(AT_FDCWD, "/", propagation=MS_SHARED, recursive=True)
        with step("joining the session keyring"):
            proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            labels.join_keyring(plan["labels"], proc_fd=proc_fd, new=True)
        if plan["claim"] is not None:
            entering.claim(plan["claim"], step, proc_fd=proc_fd)
        if plan["scheduling"] is not None:
            scheduled.apply(plan["scheduling"], step)
        if not plan["huge_pages"]:
            prctl(PR_SET_THP_DISABLE, 1)
        channel.send(READY)
        os.set_inheritable(fd, False)
        with step(f"executing {command[0]}"):
            os.execv(command[0], command)
    except ChannelClosed:
        os._exit(1)
    except BaseException as exc:  # noqa: BLE001 - whatever it is, the runtime has to be told
        step.fail(exc)


def _make_mount_points(plan: RestorePlan, channel: Channel, step: Steps) -> None:
    """Mount everything in a namespace that is left at once: what stays are the directories.

    One inside another mount is made in that: only so is it where CRIU will look for it.
    """
    pid = os.fork()
    if pid == 0:
        with step("making mount points"):
            unshare(CLONE_NEWNS)
            sources = Sources(plan["rootfs"], {})
            root_fd = mounting.attach(plan["rootfs"], sources.rootfs())
            mounting.mount_all(root_fd, plan["rootfs"]["mounts"], sources.clone)
            # where CRIU puts a directory of its own: it cannot make one in a read-only root
            os.close(make_directory(root_fd, "/tmp"))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        os._exit(1)  # the child has said why
