"""Notifications: the points where CRIU waits for our word (criu/action-scripts.c).

A handler that blocks holds CRIU there, one that raises refuses. CRIU heeds a refusal at pre-dump,
network-lock and post-dump (the source goes on as before), at pre-restore, setup-namespaces,
post-setup-namespaces, orphan-pts-master and post-restore (what was restored is killed); at
network-unlock, pre-resume and post-resume it does not: the tree runs whatever we say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Script(StrEnum):
    """CRIU's names of the points, in the order in which a dump, then a restore passes them."""

    PRE_DUMP = "pre-dump"
    NETWORK_LOCK = "network-lock"
    QUERY_EXT_FILES = "query-ext-files"
    POST_DUMP = "post-dump"
    STATUS_READY = "status-ready"
    PRE_RESTORE = "pre-restore"
    SETUP_NAMESPACES = "setup-namespaces"
    POST_SETUP_NAMESPACES = "post-setup-namespaces"
    ORPHAN_PTS_MASTER = "orphan-pts-master"
    POST_RESTORE = "post-restore"
    NETWORK_UNLOCK = "network-unlock"
    PRE_RESUME = "pre-resume"
    POST_RESUME = "post-resume"


@dataclass(frozen=True, slots=True)
class Notification:
    """One point reached.

    script: a Script, or a name that only a newer CRIU knows.
    pid: of the restored root task as we see it, at setup-namespaces and post-restore.
    fds: descriptors that CRIU sent along, open until the handler returns; dup what is to stay.
    """

    script: str
    pid: int | None = None
    fds: tuple[int, ...] = ()


Handler = Callable[[Notification], None]


def first_of(*handlers: Handler | None) -> Handler:
    """One handler that asks several, in order; the first that raises refuses for all."""

    def ask_each(notification: Notification) -> None:
        for handler in handlers:
            if handler is not None:
                handler(notification)

    return ask_each
