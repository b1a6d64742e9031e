"""Doing something in the mount namespace of a process (mount_namespaces(7), setns(2))."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from runtime.constants import CLONE_FS, CLONE_NEWNS
from runtime.syscalls import setns, unshare

_P = ParamSpec("_P")
_T = TypeVar("_T")


def within(namespace: int | str, do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What *do* returns, called with the mounts of *namespace*: a process's, or that of a path.

    Only from inside can mounts be made and cloned. A thread enters for it: alone, once it does not
    share its root and working directory with the others any more. Raises what *do* raises, OSError.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def enter(namespace_fd: int) -> None:
        try:
            unshare(CLONE_FS)
            setns(namespace_fd, CLONE_NEWNS)
            results.append(do(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    path = f"/proc/{namespace}/ns/mnt" if isinstance(namespace, int) else namespace
    namespace_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        thread = threading.Thread(target=enter, args=(namespace_fd,), name="mount namespace")
        thread.start()
        thread.join()
    finally:
        os.close(namespace_fd)
    if errors:
        raise errors[0]
    return results[0]
