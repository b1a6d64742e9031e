"""The first process of a container, from a fresh interpreter to the program.

Two processes run this: the first enters the namespaces and forks once, into the pid namespace and
as a child of the runtime (CLONE_PARENT); the second makes the filesystem and becomes the program.
Both are single-threaded and import next to nothing: their start is most of the time of `run`.
"""

from __future__ import annotations

import fcntl
import os

from runtime.constants import CLONE_NEWNS, CLONE_PARENT, PR_SET_DUMPABLE
from runtime.process import entering, labels, program
from runtime.process.channel import (
    FORKED,
    GO,
    HELPER,
    MOUNTED,
    READY,
    WAITING,
    Channel,
    ChannelClosed,
)
from runtime.process.steps import Steps, begin, seal
from runtime.rootfs import devices, jail, mounting
from runtime.rootfs.resolve import make_directory
from runtime.rootfs.sources import Sources
from runtime.syscalls import clone3, exit_on_signal, prctl, setdomainname, sethostname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from runtime.process.plan import HookPlan, InitPlan, RootfsPlan
    from runtime.process.usher import Usher

# What is to end a container that has not been started: the kernel keeps from the first process of a
# pid namespace every signal that it has no handler for.
_ENDING = (1, 2, 3, 15)  # SIGHUP, SIGINT, SIGQUIT, SIGTERM


def main(*numbers: str) -> None:
    """Talk with the runtime and become what it says; never returns. numbers: see `begin`."""
    channel, step = begin(numbers)
    try:
        plan: InitPlan = channel.receive_plan()
        _import_all(plan)
        host = _Host(plan, channel, step)
        entering.claim(plan["process"], step, proc_fd=host.proc_fd)
        if any(flag == CLONE_NEWNS for _, flag in plan["namespaces"]["join"]):
            seal()  # whoever's it is
        entering.enter(plan["namespaces"], channel, step)
        with step("forking"):
            pid = clone3(CLONE_PARENT | plan["namespaces"]["clone"])
        if pid:
            channel.send(FORKED, pid)
            os._exit(0)
        _become_container(plan, channel, step, host)
    except ChannelClosed:
        os._exit(1)  # the runtime has gone, and undoes what it can from its side
    except BaseException as exc:  # noqa: BLE001 - nothing of ours may go on in a container
        step.fail(exc)


def _import_all(plan: InitPlan) -> None:
    """What is not always needed; later we may not be allowed to read it, or see another file."""
    if plan["create_container"] or plan["start_container"]:
        _import_hooks()
    if plan["terminal"] is not None:
        from runtime.process import pty  # noqa: F401, PLC0415 - lazy: 1 ms
    if plan["notify"]:
        from runtime.process import notify  # noqa: F401, PLC0415 - lazy: 1 ms
    if any(mount["copy_up"] for mount in plan["rootfs"]["mounts"]):
        from runtime.rootfs import copy_up  # noqa: F401, PLC0415 - lazy: 1 ms


class _Gate:
    """Where init waits for `start`: it has nothing else of the host then, no path to open either.

    So it waits in a write of more than the fifo holds, not in the open of one (fifo(7), pipe(7)).
    """

    def __init__(self, plan: InitPlan) -> None:
        fd = os.open(plan["exec_fifo"], os.O_RDWR | os.O_CLOEXEC)
        self._capacity = fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1)
        #: to `start`; closed by exec, which tells it of success
        self.tell = Channel(fd)
        #: what `start` answers on, and keeps open for as long as it is there
        self.heed: Channel | None = None
        if plan["answer_fifo"]:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self.heed = Channel(os.open(plan["answer_fifo"], flags))
            os.set_blocking(self.heed.fd, True)

    def wait(self) -> None:
        """Wait until `start` reads."""
        self.tell.send(WAITING, " " * self._capacity)


class _Host:
    """What is opened of the host before a namespace is entered."""

    def __init__(self, plan: InitPlan, channel: Channel, step: Steps) -> None:
        with step("opening what the host has"):
            self.proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.gate = _Gate(plan)
        with step("making the user namespaces of idmapped mounts"):
            maps = enumerate(plan["rootfs"]["idmaps"])
            idmaps = {number: entering.namespace_with(each) for number, each in maps}
        self.sources: Sources | Usher = Sources(plan["rootfs"], idmaps)
        if plan["usher"]:
            with step("starting the helper that opens what is mounted"):
                from runtime.process import usher  # noqa: PLC0415 - lazy: 2 ms

                helper_pid, self.sources = usher.fork(plan["rootfs"], idmaps)
                channel.send(HELPER, helper_pid)


def _become_container(plan: InitPlan, channel: Channel, step: Steps, host: _Host) -> None:
    channel.receive(GO)
    with step("making a session"):
        os.setsid()
    _set_names(plan, step)
    with step("joining the session keyring"):
        labels.join_keyring(plan["process"]["labels"], proc_fd=host.proc_fd, new=True)
    with step("setting kernel parameters"):
        for path, value in plan["sysctl"].items():
            labels.write_verified(host.proc_fd, f"sys/{path}", value)
    _make_root(plan, channel, step, host)
    ready = program.prepare(plan["process"], step, proc_fd=host.proc_fd)
    for number in _ENDING:
        exit_on_signal(number)
    os.close(host.proc_fd)
    if plan["traceable"]:
        prctl(PR_SET_DUMPABLE, 1)
    channel.send(READY)
    channel.close()
    with step("waiting for start"):
        host.gate.wait()
    step.listener = host.gate.tell
    ready.prepare(step, host.gate.tell, host.gate.heed)
    _run_hooks("startContainer", plan["start_container"], "created", plan, step, env=ready.env)
    ready.execute(step)


def _set_names(plan: InitPlan, step: Steps) -> None:
    with step("setting the host name"):
        if plan["hostname"]:
            sethostname(plan["hostname"])
    with step("setting the domain name"):
        if plan["domainname"]:
            setdomainname(plan["domainname"])


def _make_root(plan: InitPlan, channel: Channel, step: Steps, host: _Host) -> None:
    root = plan["rootfs"]
    os.umask(0)  # nodes and directories have the permissions that are asked for
    with step("mounting the root filesystem"):
        if not isinstance(host.sources, Sources):
            host.sources.follow(host.proc_fd)
        root_fd = mounting.attach(root, host.sources.rootfs())
    with step("mounting"):
        filled_later = mounting.mount_all(root_fd, root["mounts"], host.sources.clone)
        host.sources.close()
    with step("making the working directory"):
        os.close(make_directory(root_fd, root["cwd"]))
    with step("making devices"):
        devices.make_nodes(root_fd, root["devices"])
    with step("making links"):
        devices.make_symlinks(root_fd, root["symlinks"])
    with step("making the notify socket"):
        notify_fd = _make_notify_socket(root_fd) if plan["notify"] else 0
    os.umask(plan["process"]["umask"])
    channel.send(MOUNTED, notify_fd)
    channel.receive(GO)
    env = program.variables(plan["process"]["env"])
    os.fchdir(root_fd)  # where these hooks run, as with runc
    _run_hooks("createContainer", plan["create_container"], "creating", plan, step, env=env)
    if plan["terminal"] is not None:
        with step("making the terminal"):
            from runtime.process import pty  # noqa: PLC0415 - lazy: 1 ms

            pty.make(root_fd, plan["terminal"], channel, proc_fd=host.proc_fd)
    _close_root(root_fd, filled_later, root, step)


def _make_notify_socket(root_fd: int) -> int:
    from runtime.process import notify  # noqa: PLC0415 - lazy: 1 ms, and seldom needed

    return notify.make(root_fd)


def _close_root(root_fd: int, filled_later: list[int], root: RootfsPlan, step: Steps) -> None:
    with step("masking paths"):
        jail.mask(root_fd, root["masked_paths"], label=root["mount_label"])
    with step("making paths read-only"):
        jail.make_readonly(root_fd, root["readonly_paths"])
        jail.set_readonly(filled_later)
    with step("changing the root"):
        jail.enter(root_fd, root)
    seal()


def _run_hooks(
    name: str,
    hooks: list[HookPlan],
    status: str,
    plan: InitPlan,
    step: Steps,
    *,
    env: dict[str, str],
) -> None:
    """Run *hooks* with the state as the container sees it: init's pid is that in here."""
    if not hooks:
        return
    with step(f"{name} hook"):
        container_hooks = _import_hooks()
        state = plan["state"] | {"pid": os.getpid(), "status": status}
        container_hooks.run(name, hooks, state, env=env)


def _import_hooks() -> ModuleType:
    from runtime.process import container_hooks  # noqa: PLC0415 - lazy: 60 ms, and seldom needed

    return container_hooks
