"""The labels of a process: its AppArmor profile, its SELinux context, its session keyring.

Part of what a container's init imports. Labels are written to the host's procfs, opened before the
container's root was entered: below /proc inside anything may be mounted, so that a label would be
written to another file, and the process run without (CVE-2019-16884, CVE-2025-52881).
proc_pid_attr(5), keyctl(2), session-keyring(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import c_char_p, c_int, c_long, c_uint

from runtime.constants import PROC_SUPER_MAGIC, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV
from runtime.syscalls import fstatfs_type, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.plan import LabelPlan

# asm/unistd.h; -1 fails with ENOSYS
_KEYCTL = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine, -1)

# linux/keyctl.h
_JOIN_SESSION_KEYRING = 1
_SETPERM = 5
_DESCRIBE = 6
# The keyring's owner, or with a user namespace, where it has another, everybody may search it.
_USER_SEARCH = 0x0008_0000
_OTHER_SEARCH = 0x0000_0008
_DESCRIPTION_BYTES = 512

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = c_long


def join_keyring(plan: LabelPlan, *, proc_fd: int, new: bool) -> None:
    """Join the container's session keyring; the caller's would have its keys in the container.

    new: the keyring is made searchable, for the processes that are to join it. Without effect
    on a kernel that has no keys.
    """
    if not plan["keyring"]:
        return
    if plan["selinux"]:
        _write(proc_fd, "keycreate", plan["selinux"])
    try:
        name = c_char_p(os.fsencode(plan["keyring"]))
        serial = _checked(_libc.syscall(c_long(_KEYCTL), c_int(_JOIN_SESSION_KEYRING), name))
    except OSError as exc:
        if exc.errno != errno.ENOSYS:
            raise
        return
    if new:
        _make_searchable(serial, _OTHER_SEARCH if plan["shared_keyring"] else _USER_SEARCH)
    if plan["selinux"]:
        _write(proc_fd, "keycreate", "")


def label_next_program(plan: LabelPlan, *, proc_fd: int) -> None:
    """Have exec take on the labels. Raises FileNotFoundError: the profile is not loaded."""
    if plan["apparmor"]:
        _take_profile(plan["apparmor"], proc_fd)
    if plan["selinux"]:
        _write(proc_fd, "exec", plan["selinux"])


def _take_profile(profile: str, proc_fd: int) -> None:
    try:
        fd = _open_verified(proc_fd, "self/attr/apparmor/exec")
    except FileNotFoundError:  # a kernel before 5.8 has one file for all modules
        fd = _open_verified(proc_fd, "self/attr/exec")
    try:
        os.write(fd, f"exec {profile}".encode())
    except FileNotFoundError as exc:
        raise OSError(exc.errno, f"no AppArmor profile {profile} is loaded") from exc
    finally:
        os.close(fd)


def _make_searchable(serial: int, permission: int) -> None:
    text = ctypes.create_string_buffer(_DESCRIPTION_BYTES)
    call = (c_long(_KEYCTL), c_int(_DESCRIBE), c_int(serial), text, c_long(_DESCRIPTION_BYTES))
    _checked(_libc.syscall(*call))
    permissions = int(text.value.split(b";")[3], 16) | permission
    _checked(_libc.syscall(c_long(_KEYCTL), c_int(_SETPERM), c_int(serial), c_uint(permissions)))


def _write(proc_fd: int, name: str, text: str) -> None:
    write_verified(proc_fd, f"self/attr/{name}", text)


def write_verified(proc_fd: int, path: str, text: str) -> None:
    """Write to a file of a procfs; EXDEV where anything is mounted over it."""
    try:
        fd = _open_verified(proc_fd, path)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as exc:
        exc.filename = f"/proc/{path}"
        raise


def _open_verified(proc_fd: int, path: str) -> int:
    resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
    fd = openat2(proc_fd, path, os.O_WRONLY, resolve=resolve)
    if fstatfs_type(fd) != PROC_SUPER_MAGIC:
        os.close(fd)
        raise OSError(errno.EXDEV, "it is not of a proc filesystem", path)
    return fd


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
