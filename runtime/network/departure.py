"""A container's network namespace on its way to another host, carried by us in place of CRIU.

CRIU reads a namespace by starting `ip` and `iptables-save` by turns, some 20 ms, and walks the
machine's whole connection tracking table for it, while the container stands still; the same again
on the other side. One that it runs in itself it leaves alone ("If root task lives in the same
namespace as criu does", criu/namespaces.c): so we put criu there, and its other half into the
namespace that we have made there before. What CRIU then does not do is ours: the lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import TYPE_CHECKING, Self

from criu_rpc.logger import Logger
from runtime.errors import NetworkNotCarried
from runtime.network.capture import Description, Reader, objections
from runtime.network.models import Networks
from runtime.network.netns import in_netns
from runtime.network.nftables import Nftables
from runtime.network.unlock import TABLE_PREFIX

if TYPE_CHECKING:
    from runtime.container import Container

logger = Logger(__name__)

#: of our lock; `unlock` finds it as it finds CRIU's
LOCK = f"{TABLE_PREFIX}migrator"


class Departure:
    """The namespace of one container: described while it runs, again when it stands still."""

    def __init__(
        self,
        init: int,
        processes: Callable[[], Iterable[int]],
        interfaces: Iterable[str],
        *,
        outside: bool = False,
    ) -> None:
        """Describe the namespace of the process *init*.

        processes: the container's, whenever they are asked for; interfaces: names of its veths.
        outside: criu stays where it is, and is told to make an empty namespace (empty_ns): one that
        belongs to a user namespace can only be made in that.
        Raises NetworkNotCarried with every reason why the namespace cannot be made again.
        """
        self.outside = outside
        self._init, self._processes, self._interfaces = init, processes, tuple(interfaces)
        self._resources = ExitStack()
        try:
            with self:
                self._tables.check()
                self.description = self._carriable(self._reader.read())
        except OSError as error:
            raise NetworkNotCarried(f"it cannot be read: {error.strerror}") from error

    def place(self) -> AbstractContextManager[None]:
        """Where criu is to be started, which then leaves the namespace alone."""
        return nullcontext() if self.outside else in_netns(self._init)

    def __enter__(self) -> Self:
        """Open all that is needed under the freeze. Raises OSError, SetupFailed."""
        with ExitStack() as undo:
            self._reader = undo.enter_context(Reader(self._init))
            with in_netns(self._init):
                self._tables = undo.enter_context(Nftables())
            self._thread = threading.Thread(target=self._read, name="network", daemon=True)
            self._found: Description | BaseException | None = None
            self._resources = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.ident is not None:
            self._thread.join()
        self._resources.close()

    def freeze(self) -> None:
        """Have nothing come in and no TCP leave, and begin to look what is there now.

        Nobody is there to send but the kernel's own timers. An acknowledgement that it has delayed
        (by 40 ms, also of a socket in repair mode) would bear a later timestamp than those that the
        restored socket goes on with, after CRIU has noted it: the peer takes these for old ones and
        drops them (RFC 7323, 5.3), until the first is sent again a second later. A process that
        runs on because a dump failed may send all but TCP at once: it gets no EPERM.

        Raises OSError.
        """
        self._tables.lock(LOCK)
        self._tables.commit()
        self._thread.start()

    def changes(self) -> list[str]:
        """What is different now, in words; `description` is then what is there.

        Raises NetworkNotCarried where that cannot be made again any more.
        """
        self._thread.join()
        if isinstance(self._found, BaseException):
            raise NetworkNotCarried(f"it cannot be read: {self._found}") from self._found
        assert self._found is not None
        former, self.description = self.description, self._carriable(self._found)
        return [] if self.description == former else former.differences(self.description)

    def _carriable(self, found: Description) -> Description:
        reasons, ours = objections(found, self._interfaces), _namespace(self._init)
        others = [pid for pid in self._processes() if _namespace(pid) not in (ours, None)]
        if others:
            reasons.append(f"processes {others} are in a namespace of their own")
        if reasons:
            raise NetworkNotCarried("; ".join(reasons))
        return found

    def _read(self) -> None:
        try:
            self._found = self._reader.read()
        except BaseException as error:  # noqa: BLE001 - whatever it is
            self._found = error  # changes() raises it in its caller's thread


def departing(container: Container) -> Departure | None:
    """None where CRIU has to dump the namespace, which the log then gives the reason of, or where
    there is none of the container's own.
    """
    linux = container.spec.linux
    if not linux.owns("network"):
        return None
    interfaces = [network.name for network in Networks.of(container.state).veths]
    init, outside = container.state.init_pid, linux.user_namespace
    try:
        return Departure(init, container.processes, interfaces, outside=outside)
    except NetworkNotCarried as error:
        logger.info("CRIU dumps the network namespace of %s: %s", container.id, error.why)
        return None


def _namespace(pid: int) -> str | None:
    """None of a process that has ended."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return None
