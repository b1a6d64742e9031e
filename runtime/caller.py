"""Who calls the runtime, as far as it makes a difference. user_namespaces(7)."""

from __future__ import annotations

import os

_ALL_IDS = ["0", "0", str(2**32 - 1)]


def is_host_root() -> bool:
    """Whether this process is root, and of no user namespace but the first."""
    return os.geteuid() == 0 and not in_user_namespace()


def in_user_namespace() -> bool:
    """Whether this process is in a user namespace, and not the first."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != _ALL_IDS
