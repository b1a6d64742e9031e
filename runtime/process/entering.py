"""How a process of ours comes into a container's namespaces, and what it has to do before.

Runs in a fresh interpreter of one thread, still with all the powers of the runtime: once in a user
namespace, it is an ordinary process of the host. namespaces(7), user_namespaces(7).
"""

from __future__ import annotations

import errno
import os

from runtime import rlimits
from runtime.constants import CLONE_NEWUSER, PR_SET_DUMPABLE
from runtime.process import labels
from runtime.process.channel import GO, UNSHARED
from runtime.syscalls import clone3, loopback_up, prctl, setns, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from runtime.process.channel import Channel
    from runtime.process.plan import ClaimPlan, IdMaps, NamespacePlan
    from runtime.process.steps import Steps

    _T = TypeVar("_T")

_SIGKILL = 9


def claim(plan: ClaimPlan, step: Steps, *, proc_fd: int) -> None:
    """Take from the host what a process in a user namespace would be refused."""
    with step("setting resource limits"):
        rlimits.allow(plan["rlimits"])
    with step("setting oom_score_adj"):
        if plan["oom_score_adj"] is not None:
            value = str(plan["oom_score_adj"])
            _as_owner(lambda: labels.write_verified(proc_fd, "self/oom_score_adj", value))


def enter(plan: NamespacePlan, channel: Channel, step: Steps) -> None:
    """Join and make the namespaces of *plan*, but for a pid namespace, which the fork makes."""
    offsets_fd = _open_offsets(plan, step)
    opened = []
    for path, flag in plan["join"]:
        with step(f"joining namespace {path}"):
            opened.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), path, flag))
    if plan["user"]:
        # Before it, those that it does not own; what an ordinary user may join only as its root
        # is left for afterwards.
        later = [each for each in opened if each[2] != CLONE_NEWUSER and not _joined(each, step)]
        _enter_user_namespace(plan, opened, channel, step)
        opened = later
    for namespace_fd, path, flag in opened:
        with step(f"joining namespace {path}"):
            setns(namespace_fd, flag)
            os.close(namespace_fd)
    with step("making namespaces"):
        unshare(plan["unshare"] & ~CLONE_NEWUSER)
    if offsets_fd is not None:
        with step("setting the clocks of the time namespace"):
            os.write(offsets_fd, plan["time_offsets"].encode())
            os.close(offsets_fd)
    if plan["loopback"]:
        with step("bringing up the loopback"):
            loopback_up()


def _open_offsets(plan: NamespacePlan, step: Steps) -> int | None:
    """The file to be written later: it is refused to the root of a user namespace."""
    if not plan["time_offsets"]:
        return None
    with step("setting the clocks of the time namespace"):
        path = "/proc/self/timens_offsets"
        return _as_owner(lambda: os.open(path, os.O_WRONLY | os.O_CLOEXEC))


def _joined(namespace: tuple[int, str, int], step: Steps) -> bool:
    namespace_fd, path, flag = namespace
    with step(f"joining namespace {path}"):
        try:
            setns(namespace_fd, flag)
        except PermissionError:
            return False
        os.close(namespace_fd)
    return True


def _enter_user_namespace(
    plan: NamespacePlan, opened: list[tuple[int, str, int]], channel: Channel, step: Steps
) -> None:
    with step("entering the user namespace"):
        for namespace_fd, _, flag in opened:
            if flag == CLONE_NEWUSER:
                setns(namespace_fd, flag)
                os.close(namespace_fd)
        if plan["unshare"] & CLONE_NEWUSER:
            unshare(CLONE_NEWUSER)
            # Nobody else is in it yet, so nobody can make use of this.
            _as_owner(lambda: _await_maps(channel))
        become_root()


def _await_maps(channel: Channel) -> None:
    channel.send(UNSHARED)
    channel.receive(GO)


def become_root() -> None:
    """Be the root user of the user namespace that we have come into."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            raise OSError(exc.errno, "user and group 0 have to be mapped in it") from None
        raise
    # Other ids, or capabilities, have set it to fs.suid_dumpable, which may be 1 (proc_sys_fs(5)):
    # root of this user namespace could trace us.
    prctl(PR_SET_DUMPABLE, 0)


def _as_owner(do: Callable[[], _T]) -> _T:
    """What *do* returns while our files below /proc belong to an ordinary user who we are.

    Else they are root's, as nobody may trace us (proc(5)); for before a container is joined.
    """
    if os.geteuid() == 0:
        return do()
    prctl(PR_SET_DUMPABLE, 1)
    try:
        return do()
    finally:
        prctl(PR_SET_DUMPABLE, 0)


def namespace_with(maps: IdMaps) -> int:
    """A descriptor of a new user namespace with *maps*, in which nobody is."""
    never_fd, held_fd = os.pipe()
    pid = clone3(CLONE_NEWUSER)
    if pid == 0:
        os.close(held_fd)
        os.read(never_fd, 1)
        os._exit(0)
    try:
        for name, text in zip(("uid_map", "gid_map"), maps, strict=True):
            write(f"/proc/{pid}/{name}", text)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, _SIGKILL)
        os.waitpid(pid, 0)
        os.close(never_fd)
        os.close(held_fd)


def write(path: str, text: str) -> None:
    """Write *text* to a file of the kernel; OSError has *path*."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as exc:
        exc.filename = path
        raise
    finally:
        os.close(fd)
