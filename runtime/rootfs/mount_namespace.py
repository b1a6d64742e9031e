"""Doing something in the mount namespace of a process (mount_namespaces(7), setns(2))."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from runtime.constants import CLONE_FS, CLONE_NEWNS
from runtime.syscalls import setns, unshare
from runtime.threads import in_a_thread

_P = ParamSpec("_P")
_T = TypeVar("_T")


def within(namespace: int | str, do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What *do* returns, called with the mounts of *namespace*: a process's, or that of a path.

    Only from inside can mounts be made and cloned. A thread enters for it: alone, once it does not
    share its root and working directory with the others any more. Raises what *do* raises, OSError.
    """

    def enter() -> _T:
        unshare(CLONE_FS)
        setns(namespace_fd, CLONE_NEWNS)
        return do(*args, **kwargs)

    path = f"/proc/{namespace}/ns/mnt" if isinstance(namespace, int) else namespace
    namespace_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return in_a_thread(enter, name="mount namespace")
    finally:
        os.close(namespace_fd)
