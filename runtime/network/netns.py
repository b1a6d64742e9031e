"""Entering a network namespace for a moment, and what names one (network_namespaces(7)).

Only the calling thread enters: threads may be in different network namespaces, and a socket stays
in the one where it was opened: a netlink socket opened inside serves from outside, without a fork.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.constants import CLONE_NEWNET
from runtime.errors import SetupFailed
from runtime.syscalls import setns

#: a process by its pid, or a namespace by its path (/proc/self/fd/N for an open one)
Netns = int | str | Path


def path_of(netns: Netns) -> Path:
    """The file that setns(2) wants."""
    return Path(f"/proc/{netns}/ns/net") if isinstance(netns, int) else Path(netns)


@contextmanager
def in_netns(netns: Netns) -> Iterator[None]:
    """Have the calling thread in *netns*, and back where it was afterwards.

    Raises SetupFailed when there is no such namespace; the thread is then where it was.
    """
    home_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(path_of(netns))
        try:
            yield
        finally:
            setns(home_fd, CLONE_NEWNET)
    finally:
        os.close(home_fd)


def _enter(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(fd, CLONE_NEWNET)
        finally:
            os.close(fd)
    except OSError as exc:
        raise SetupFailed(f"enter network namespace {path}", str(exc.strerror)) from exc
