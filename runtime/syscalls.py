"""System calls that the os module of Python 3.11 lacks: functions named as in the manual pages.

Each raises OSError with errno, and with the path where there is one. Part of what a container's
init imports, where every millisecond counts for `run`: ctypes and os only.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import (
    c_char,
    c_char_p,
    c_int,
    c_long,
    c_short,
    c_size_t,
    c_uint,
    c_uint32,
    c_uint64,
    c_ulong,
    c_ushort,
    c_void_p,
)

from runtime.constants import (
    AF_INET,
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    CAPABILITY_VERSION_3,
    CLONE_PARENT,
    CLOSE_RANGE_CLOEXEC,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    IFF_UP,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    SECCOMP_SET_MODE_FILTER,
    SIOCGIFFLAGS,
    SIOCSIFFLAGS,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# asm-generic/unistd.h: calls added since 5.1 have one number on every architecture (alpha apart).
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_CLONE3 = 435
_LAST_FD = 0xFFFF_FFFF
_NR_CLOSE_RANGE = 436
_NR_OPENAT2 = 437
_NR_PIDFD_GETFD = 438
_NR_MOUNT_SETATTR = 442
_NR_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}.get(os.uname().machine)

_SIGCHLD = 17

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = c_long
_libc.prctl.argtypes = (c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_libc.fstatfs.argtypes = (c_int, c_void_p)
_libc.signal.argtypes = (c_int, c_void_p)
_libc.signal.restype = c_void_p
_libc.prlimit64.argtypes = (c_int, c_int, c_void_p, c_void_p)

_syscall = _libc.syscall


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", c_uint64), ("mode", c_uint64), ("resolve", c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", c_uint64),
        ("attr_clr", c_uint64),
        ("propagation", c_uint64),
        ("userns_fd", c_uint64),
    )


class _CloneArgs(ctypes.Structure):
    # CLONE_ARGS_SIZE_VER0: as far as the kernel of 5.3 knows it
    _fields_ = (
        ("flags", c_uint64),
        ("pidfd", c_uint64),
        ("child_tid", c_uint64),
        ("parent_tid", c_uint64),
        ("exit_signal", c_uint64),
        ("stack", c_uint64),
        ("stack_size", c_uint64),
        ("tls", c_uint64),
    )


class _SockFprog(ctypes.Structure):
    # linux/filter.h; len counts instructions of 8 bytes
    _fields_ = (("len", c_ushort), ("filter", c_char_p))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", c_uint32), ("pid", c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", c_uint32), ("permitted", c_uint32), ("inheritable", c_uint32))


class _InterfaceFlags(ctypes.Structure):
    # struct ifreq with the member of the union that SIOCGIFFLAGS uses
    _fields_ = (("name", c_char * 16), ("flags", c_short), ("_rest", c_char * 22))


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces of *flags* for new ones of our own."""
    _checked(_libc.unshare(c_int(flags)))


def setns(fd: int, nstype: int) -> None:
    """Join the namespace that *fd* is, or those of the process that the pidfd *fd* is."""
    _checked(_libc.setns(c_int(fd), c_int(nstype)))


def clone3(flags: int) -> int:
    """Fork with *flags*: 0 in the child, its pid in the caller. Only for a single-threaded process.

    Neither libc's nor Python's fork handlers run. PyDLL keeps the interpreter lock over the call:
    one holder goes in, and in each of both processes one holder comes out.
    """
    # With CLONE_PARENT the signal is our own parent's, and must not be given.
    args = _CloneArgs(flags=flags, exit_signal=0 if flags & CLONE_PARENT else _SIGCHLD)
    pid = ctypes.PyDLL(None, use_errno=True).syscall(
        c_long(_NR_CLONE3), ctypes.byref(args), c_size_t(ctypes.sizeof(args))
    )
    return _checked(pid)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Our own descriptor for what descriptor *fd* of the process *pidfd* leads to."""
    call = (c_long(_NR_PIDFD_GETFD), c_int(pidfd), c_int(fd), c_uint(0))
    return _checked(_syscall(*call))


def openat2(dir_fd: int, path: str, flags: int, *, resolve: int, mode: int = 0) -> int:
    """Open *path* below *dir_fd* under the rules of *resolve*; the fd is closed on exec."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    name = os.fsencode(path)
    size = c_size_t(ctypes.sizeof(how))
    while True:
        fd = _syscall(c_long(_NR_OPENAT2), c_int(dir_fd), c_char_p(name), ctypes.byref(how), size)
        # EAGAIN: something was renamed while ".." was resolved in the root (openat2(2)).
        if fd >= 0 or ctypes.get_errno() != 11:
            return _checked(fd, path)


def open_tree(dir_fd: int, path: str, *, recursive: bool = False) -> int:
    """Clone the mount at *path* (with those below it) into a detached one, and return its fd."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    flags |= 0 if path else AT_EMPTY_PATH
    name = os.fsencode(path)
    return _checked(
        _syscall(c_long(_NR_OPEN_TREE), c_int(dir_fd), c_char_p(name), c_uint(flags)), path or None
    )


def move_mount(mount_fd: int, target_fd: int, *, flags: int = 0) -> None:
    """Attach the detached mount *mount_fd* on the file or directory *target_fd*.

    flags: with MOVE_MOUNT_SET_GROUP the mount *target_fd* joins the peer group of *mount_fd*.
    """
    flags |= MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _checked(
        _syscall(c_long(_NR_MOVE_MOUNT), c_int(mount_fd), b"", c_int(target_fd), b"", c_uint(flags))
    )


def mount_setattr(
    dir_fd: int,
    path: str = "",
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """Change attributes or propagation of the mount whose root is at *path* below *dir_fd*.

    userns_fd: the user namespace that MOUNT_ATTR_IDMAP takes its maps from.
    """
    attr = _MountAttr(attr_set, attr_clr, propagation, userns_fd)
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    size = c_size_t(ctypes.sizeof(attr))
    name = os.fsencode(path)
    _checked(
        _syscall(
            c_long(_NR_MOUNT_SETATTR),
            c_int(dir_fd),
            c_char_p(name),
            c_uint(flags),
            ctypes.byref(attr),
            size,
        ),
        path or None,
    )


def fsopen(fstype: str) -> int:
    """Begin to configure a filesystem of type *fstype*."""
    return _checked(_syscall(c_long(_NR_FSOPEN), os.fsencode(fstype), c_uint(FSOPEN_CLOEXEC)))


def fsconfig_set(fs_fd: int, key: str, value: str | None) -> None:
    """Set an option of the filesystem; None: one without a value."""
    command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
    text = None if value is None else os.fsencode(value)
    _fsconfig(fs_fd, command, os.fsencode(key), text)


def fsconfig_create(fs_fd: int) -> None:
    """Make (or find) the superblock that was configured."""
    _fsconfig(fs_fd, FSCONFIG_CMD_CREATE, None, None)


def _fsconfig(fs_fd: int, command: int, key: bytes | None, value: bytes | None) -> None:
    call = (c_long(_NR_FSCONFIG), c_int(fs_fd), c_uint(command), c_char_p(key), c_char_p(value))
    _checked(_syscall(*call, c_int(0)))


def fsmount(fs_fd: int, attributes: int) -> int:
    """Make a detached mount of the configured filesystem, and return its fd."""
    return _checked(
        _syscall(c_long(_NR_FSMOUNT), c_int(fs_fd), c_uint(FSMOUNT_CLOEXEC), c_uint(attributes))
    )


def umount2(path: str, flags: int) -> None:
    """Unmount what is mounted at *path*."""
    _checked(_libc.umount2(os.fsencode(path), c_int(flags)), path)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make *new_root* the root mount of this mount namespace."""
    _checked(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)


def fstatfs_type(fd: int) -> int:
    """The magic number of the filesystem that *fd* lies on: f_type, first of struct statfs."""
    buffer = (c_ulong * 64)()
    _checked(_libc.fstatfs(fd, buffer))
    return int(buffer[0])


def close_range(first: int, last: int = _LAST_FD, flags: int = 0) -> None:
    """Close every fd from *first* to *last*, or have exec do so (CLOSE_RANGE_CLOEXEC)."""
    if first <= last:
        _checked(_syscall(c_long(_NR_CLOSE_RANGE), c_uint(first), c_uint(last), c_uint(flags)))


def close_all_from(first: int, kept: Iterable[int]) -> None:
    """Close every fd from *first* on but those *kept*."""
    for fd in sorted(each for each in kept if each >= first):
        close_range(first, fd - 1)
        first = fd + 1
    close_range(first)


def close_range_cloexec(first: int) -> None:
    """Have every fd from *first* on closed by exec."""
    close_range(first, flags=CLOSE_RANGE_CLOEXEC)


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> None:
    """Change an attribute of this process (prctl(2))."""
    _checked(_libc.prctl(option, arg2, arg3, 0, 0))


def seccomp(call: int, flags: int, program: bytes) -> Callable[[], int]:
    """Prepare to put this thread under the filter *program*; returns what does it.

    call: the number of seccomp(2). That returns what the kernel does: 0, or with
    SECCOMP_FILTER_FLAG_NEW_LISTENER a descriptor. It makes that one call and no other.
    """
    filled = _SockFprog(len=len(program) // 8, filter=program)
    arguments = (c_long(call), c_uint(SECCOMP_SET_MODE_FILTER), c_uint(flags), ctypes.byref(filled))
    return lambda: _checked(_syscall(*arguments))


def execve(path: str, args: list[str], env: dict[str, str]) -> Callable[[], None]:
    """Prepare to become the program at *path*; returns what does it, by that one call."""
    name = os.fsencode(path)
    argv = _strings(args)
    envp = _strings([f"{key}={value}" for key, value in env.items()])

    def become() -> None:
        _checked(_libc.execve(name, argv, envp), path)

    return become


def _strings(texts: list[str]) -> ctypes.Array[c_char_p]:
    return (c_char_p * (len(texts) + 1))(*map(os.fsencode, texts), None)


def lowest_free_fd() -> int:
    """The number of the next descriptor that this process gets."""
    fd = os.dup(0)
    os.close(fd)
    return fd


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set three of this thread's capability sets, each a mask of 64 bits."""
    header = _CapHeader(version=CAPABILITY_VERSION_3, pid=0)
    words = (
        _CapData(*(bits >> shift & 0xFFFF_FFFF for bits in (effective, permitted, inheritable)))
        for shift in (0, 32)
    )
    data = (_CapData * 2)(*words)
    _checked(_libc.capset(ctypes.byref(header), data))


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set one resource limit of process *pid* (0: our own)."""
    _checked(_libc.prlimit64(pid, resource, (c_uint64 * 2)(soft, hard), None))


def sethostname(name: str) -> None:
    """Name this UTS namespace."""
    encoded = os.fsencode(name)
    _checked(_libc.sethostname(encoded, c_size_t(len(encoded))), name)


def setdomainname(name: str) -> None:
    """Give this UTS namespace its NIS domain name."""
    encoded = os.fsencode(name)
    _checked(_libc.setdomainname(encoded, c_size_t(len(encoded))), name)


def default_signal(number: int) -> None:
    """Give signal *number* its default action; without effect for those that cannot be set.

    By the kernel's call where its number is known: libc keeps the first real-time signals to
    itself, and has its posix_spawn ignore them.
    """
    if _NR_RT_SIGACTION is None:
        _libc.signal(number, None)
    else:
        action = (c_ulong * 4)()  # SIG_DFL, no flags, no restorer, an empty mask
        _syscall(c_long(_NR_RT_SIGACTION), c_int(number), action, None, c_size_t(8))


def signalfd() -> int:
    """A descriptor that every signal can be read from that the reading thread blocks."""
    every = (c_uint64 * 16)(2**64 - 1)  # sigset_t is 128 bytes, the kernel's part of it the first 8
    return _checked(_libc.signalfd(c_int(-1), every, c_int(os.O_CLOEXEC)))


def exit_on_signal(number: int) -> None:
    """Have signal *number* end this process, without a step back into Python."""
    _libc.signal(number, ctypes.cast(_libc._exit, c_void_p))


def loopback_up() -> None:
    """Bring up the loopback of this network namespace (netdevice(7))."""
    fd = _checked(_libc.socket(c_int(AF_INET), c_int(SOCK_DGRAM | SOCK_CLOEXEC), c_int(0)))
    try:
        request = _InterfaceFlags(name=b"lo")
        _checked(_libc.ioctl(c_int(fd), c_ulong(SIOCGIFFLAGS), ctypes.byref(request)))
        request.flags |= IFF_UP
        _checked(_libc.ioctl(c_int(fd), c_ulong(SIOCSIFFLAGS), ctypes.byref(request)))
    finally:
        os.close(fd)
