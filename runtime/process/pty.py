"""The terminal of a process in a container, made from inside: a pty of the container's own devpts.

Everything below the root may be a link to anywhere, or be exchanged meanwhile (CVE-2025-52565): so
only the master is opened by a path, and it is asked first whether it is one. pty(7), ioctl_tty(2),
Documentation/filesystems/devpts.rst.
"""

from __future__ import annotations

import errno
import os
from fcntl import ioctl
from sys import byteorder

from runtime.constants import (
    DEVPTS_SUPER_MAGIC,
    TIOCGPTN,
    TIOCGPTPEER,
    TIOCSCTTY,
    TIOCSPTLCK,
    TIOCSWINSZ,
)
from runtime.process import passing
from runtime.process.channel import TERMINAL, Channel
from runtime.rootfs.resolve import make_file, open_in_root
from runtime.syscalls import fstatfs_type, move_mount, open_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.plan import TerminalPlan

_MULTIPLEXER = "/dev/pts/ptmx"
_CONSOLE = "/dev/console"


def make(root_fd: int, plan: TerminalPlan, channel: Channel, *, proc_fd: int) -> None:
    """Make a terminal, give its other end to the runtime, and take it as standard descriptors.

    It becomes the controlling terminal of this process, which leads a session. proc_fd: the host's
    /proc; root_fd: the container's root, which need not be ours yet.
    """
    master_fd = _open_multiplexer(root_fd, proc_fd)
    ioctl(master_fd, TIOCSPTLCK, bytes(4))
    # Not by its path, where something else may lie.
    slave_fd = ioctl(master_fd, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if plan["height"] and plan["width"]:
        ioctl(master_fd, TIOCSWINSZ, _window(plan["height"], plan["width"]))
    if plan["console"]:
        _mount_console(root_fd, slave_fd)
    channel.send(TERMINAL, path_of(master_fd))
    passing.send(channel.fd, b"\0", master_fd)
    os.close(master_fd)
    for fd in (0, 1, 2):
        os.dup2(slave_fd, fd)
    os.close(slave_fd)
    ioctl(0, TIOCSCTTY, 0)


def path_of(master_fd: int) -> str:
    """Of the terminal whose master that is, in its container. Raises OSError."""
    number = int.from_bytes(ioctl(master_fd, TIOCGPTN, bytes(4)), byteorder)
    return f"/dev/pts/{number}"


def _open_multiplexer(root_fd: int, proc_fd: int) -> int:
    """A new master. Only the multiplexer of a devpts is opened: a device of the host may be told
    something by its opening alone.
    """
    path_fd = open_in_root(root_fd, _MULTIPLEXER, symlinks=False)
    is_multiplexer = os.fstat(path_fd).st_rdev == os.makedev(5, 2)
    if fstatfs_type(path_fd) != DEVPTS_SUPER_MAGIC or not is_multiplexer:
        raise OSError(errno.ENODEV, "it is not of a devpts: mount one on /dev/pts", _MULTIPLEXER)
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master_fd = os.open(f"self/fd/{path_fd}", flags, dir_fd=proc_fd)
    os.close(path_fd)
    return master_fd


def _window(height: int, width: int) -> bytes:
    """struct winsize; the last two numbers, pixels, are unused."""
    return b"".join(number.to_bytes(2, byteorder) for number in (height, width, 0, 0))


def _mount_console(root_fd: int, slave_fd: int) -> None:
    mount_fd = open_tree(slave_fd, "")
    target_fd = _make_console(root_fd)
    move_mount(mount_fd, target_fd)
    os.close(target_fd)
    os.close(mount_fd)


def _make_console(root_fd: int) -> int:
    """What is mounted on; a link in its place could lead to what must not be covered."""
    try:
        return open_in_root(root_fd, _CONSOLE, symlinks=False)
    except FileNotFoundError:
        os.close(make_file(root_fd, _CONSOLE))
    return open_in_root(root_fd, _CONSOLE, symlinks=False)
