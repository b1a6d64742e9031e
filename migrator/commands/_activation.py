"""What a service manager gives a command for the container, in its environment, as runc takes it.

sd_listen_fds(3): descriptors to serve. sd_notify(3): who waits for the container to be ready.
"""

from __future__ import annotations

import os
from typing import TypedDict


class Activation(TypedDict):
    """Arguments of Container.create."""

    listen_fds: int
    notify: bool


def activation() -> Activation:
    """What is given for the container that this command makes."""
    count = os.environ.get("LISTEN_FDS", "")
    ours = os.environ.get("LISTEN_PID") == str(os.getpid())
    return {
        "listen_fds": int(count) if ours and count.isdecimal() else 0,
        "notify": bool(manager()),
    }


def manager() -> str:
    """The socket of who waits for the container to be ready; "": nobody does."""
    return os.environ.get("NOTIFY_SOCKET", "")
