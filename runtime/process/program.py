"""From init to the program of the container: its limits, user, capabilities, directory, and exec.

The last steps of both a new container and an exec. Runs inside the container's namespaces with its
root, so nothing here imports, and no path is trusted (CVE-2024-21626). execve(2), credentials(7).
"""

from __future__ import annotations

import errno
import os
import stat

from runtime import capabilities, rlimits
from runtime.constants import (
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
)
from runtime.process import labels, scheduled
from runtime.process.channel import GO, LISTENER
from runtime.rootfs.resolve import is_null, open_in_root
from runtime.syscalls import (
    close_all_from,
    default_signal,
    execve,
    lowest_free_fd,
    prctl,
    seccomp,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.channel import Channel
    from runtime.process.plan import ProcessPlan, SeccompPlan
    from runtime.process.steps import Listener, Steps

_DEFAULT_PATH = "/bin:/usr/bin"  # execvp(3)
_LAST_SIGNAL = 64
_MAX_PASSWD_BYTES = 1 << 20


class Program:
    """What exec is called with, once everything else is done."""

    def __init__(self, path: str, env: dict[str, str], plan: ProcessPlan) -> None:
        self._path = path
        self._args = plan["args"]
        self.env = env
        self._seccomp = plan["seccomp"]
        self._preserve_fds = plan["preserve_fds"]
        self._limits = plan["rlimits"]

    def prepare(self, step: Steps, tell: Channel, heed: Channel | None) -> None:
        """Have nothing left but the last call; what runs after it comes under the filter.

        tell, heed: to the runtime and from it; what heeds may be none for a filter that nobody
        listens to.
        """
        with step("exec"):
            self._let_go({channel.fd for channel in (tell, heed) if channel is not None})
            self._become = execve(self._path, self._args, self.env)
        if self._seccomp is not None:
            with step("installing the seccomp filter"):
                _confine(self._seccomp, tell, heed)

    def execute(self, step: Steps) -> None:
        """Become the program; never returns."""
        with step("exec"):
            self._become()

    def _let_go(self, kept: set[int]) -> None:
        """Give up what we have of the host, before the program's path is followed.

        That may be /proc/self/fd/N/... and exec follows it before it closes anything: what is run
        would be the host's, and could be written to from inside (CVE-2024-21626).
        """
        # Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays so over exec.
        for number in range(1, _LAST_SIGNAL + 1):
            default_signal(number)
        preserved = range(3, 3 + self._preserve_fds)
        close_all_from(preserved.stop, kept)
        for fd in preserved:
            os.set_inheritable(fd, True)
        rlimits.lower_descriptors(self._limits)


def _confine(plan: SeccompPlan, tell: Listener, heed: Channel | None) -> None:
    """Come under the filter; from then on a call that it forbids may be the end.

    So between this and exec there is no call but one read, for a filter that somebody listens to:
    the runtime knows beforehand which descriptor to take, and says when it has handed that over.
    """
    install = seccomp(plan["call"], plan["flags"], plan["program"])
    if plan["listener"]:
        assert heed is not None
        if plan["traceable"]:  # nothing of the host is left here but the conversation
            prctl(PR_SET_DUMPABLE, 1)
        tell.send(LISTENER, lowest_free_fd())
        install()
        heed.receive(GO)
    else:
        install()


def prepare(plan: ProcessPlan, step: Steps, *, proc_fd: int) -> Program:
    """Take on everything of *plan* but the program itself.

    proc_fd: the host's /proc, opened before this process came under the container's root: the one
    inside may be anything.
    """
    with step("setting resource limits"):
        rlimits.apply(plan["rlimits"])
    if plan["scheduling"] is not None:
        scheduled.apply(plan["scheduling"], step)
    with step("setting the labels of the process"):
        labels.label_next_program(plan["labels"], proc_fd=proc_fd)
    with step("preparing standard descriptors"):
        for fd in (0, 1, 2):
            _own_descriptor(fd, plan["uid"])
    with step("changing directory"):
        entered = _enter_as_root(plan["cwd"])
    with step("changing to the user"):
        _become_user(plan, proc_fd)
    with step("changing directory"):
        if not entered:
            _enter(plan["cwd"])
    with step("setting capabilities"):
        capabilities.apply(plan["capabilities"])
    with step("setting no_new_privs"):
        if plan["no_new_privileges"]:
            prctl(PR_SET_NO_NEW_PRIVS, 1)
    with step("setting the signal for its parent's end"):
        if plan["parent_death_signal"]:  # only now: a change of credentials takes it away
            prctl(PR_SET_PDEATHSIG, plan["parent_death_signal"])
    env = _environment(plan)
    with step("exec"):
        path = find_program(plan["args"][0], env.get("PATH") or _DEFAULT_PATH)
    os.umask(plan["umask"])
    return Program(path, env, plan)


def _own_descriptor(fd: int, uid: int) -> None:
    """Give the standard descriptor to the user, so that /dev/stdout can be opened by name.

    The host's null device is exchanged for the container's: CRIU cannot restore the former, and
    its owner must not change.
    """
    if is_null(fd):
        _use_own_null(fd)
        return
    status = os.fstat(fd)
    if uid in (0, status.st_uid):
        return
    try:
        os.fchown(fd, uid, -1)
    except OSError as exc:
        # A read-only or foreign filesystem, or a kind of file that has no owner.
        if exc.errno not in (errno.EROFS, errno.EPERM, errno.EINVAL):
            raise


def _use_own_null(fd: int) -> None:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        null_fd = os.open("/dev/null", flags)
    except OSError:
        return  # none inside: the host's works as well, until a checkpoint
    if is_null(null_fd):
        os.dup2(null_fd, fd)
    os.close(null_fd)


def _enter_as_root(path: str) -> bool:
    """Change directory; False where root may not, as on some network filesystems."""
    try:
        _enter(path)
    except PermissionError:
        return False
    return True


def _enter(path: str) -> None:
    """Change directory. No magic link is followed: /proc/self/fd/N would lead out of the root."""
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        directory_fd = open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(root_fd)
    try:
        os.fchdir(directory_fd)
    except OSError as exc:
        exc.filename = path
        raise
    finally:
        os.close(directory_fd)


def _become_user(plan: ProcessPlan, proc_fd: int) -> None:
    capabilities.limit_bounding_set(plan["capabilities"]["bounding"], _last_capability(proc_fd))
    prctl(PR_SET_KEEPCAPS, 1)
    may_set_groups = not _has_to_keep_groups(proc_fd)
    if plan["additional_gids"] and not may_set_groups:
        raise OSError(errno.EPERM, "additionalGids cannot be set: one group is mapped, the own")
    if may_set_groups:
        os.setgroups(plan["additional_gids"])
    try:
        os.setresgid(plan["gid"], plan["gid"], plan["gid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            who = f"user {plan['uid']} or group {plan['gid']}"
            raise OSError(exc.errno, f"{who} is not mapped in the user namespace") from None
        raise
    prctl(PR_SET_KEEPCAPS, 0)
    # A change of user has set it to fs.suid_dumpable.
    prctl(PR_SET_DUMPABLE, 0)


def _has_to_keep_groups(proc_fd: int) -> bool:
    """Whether this user namespace is an ordinary user's, where the groups stay as they are."""
    fd = os.open("self/setgroups", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    try:
        return os.read(fd, 16).startswith(b"deny")
    finally:
        os.close(fd)


def _last_capability(proc_fd: int) -> int:
    fd = os.open("sys/kernel/cap_last_cap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


def _environment(plan: ProcessPlan) -> dict[str, str]:
    env = variables(plan["env"])
    if not env.get("HOME"):
        env["HOME"] = _home_of(plan["uid"])
    return env


def variables(entries: list[str]) -> dict[str, str]:
    """NAME=value entries as names and values; of several with one name the last counts."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, _, value in pairs}


def _home_of(uid: int) -> str:
    """The home directory that the container's /etc/passwd gives *uid*, "/" where it has none."""
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return "/"
    with open(fd, "rb") as file:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        text = file.read(_MAX_PASSWD_BYTES) if is_file else b""
    for line in text.splitlines():
        fields = line.split(b":")
        if len(fields) > 5 and fields[2] == str(uid).encode():
            return os.fsdecode(fields[5]) or "/"
    return "/"


def find_program(name: str, search: str) -> str:
    """The path of program *name*, looked for as execvp(3) does; the user must be set already."""
    if "/" in name:
        _check_executable(name)
        return name
    denied = None
    for directory in search.split(":"):
        path = f"{directory or '.'}/{name}"
        try:
            _check_executable(path)
        except PermissionError as exc:
            denied = exc
        except OSError:
            continue
        else:
            return path
    raise denied or OSError(errno.ENOENT, "executable file not found in $PATH", name)


def _check_executable(path: str) -> None:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK, effective_ids=True):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
