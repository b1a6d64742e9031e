"""Start criu by a fresh interpreter of ours, which prepares the place that criu is to work in."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

from criu_rpc import Criu, find_criu
from runtime.checkpoint import descriptors
from runtime.errors import RestoreFailed, SetupFailed
from runtime.interpreter import command
from runtime.process.channel import READY, Channel, ChannelClosed, Failed, UnexpectedMessage
from runtime.process.parent import failure
from runtime.undo import Undo

if TYPE_CHECKING:
    from runtime.checkpoint.restore_plan import RestorePlan

# Modules of runtime.process, which say what place that is.
RESTORING = "restoring"
DUMPING = "dumping"

_STREAMS = ("stdin", "stdout", "stderr")


def launch(
    module: str,
    criu: str | None,
    *,
    within: AbstractContextManager[object] | None,
    inherit: Mapping[str, int] | None = None,
) -> tuple[Criu, Channel]:
    """Start the interpreter, which becomes criu; it is talked with by the channel.

    module: RESTORING or DUMPING; within, inherit: see Criu.start. Raises as that, and CriuNotFound.
    """
    ours, theirs = (end.detach() for end in socket.socketpair())
    channel = Channel(ours)
    try:
        process = Criu.start(
            find_criu(criu),
            inherit=inherit,
            launcher=command(f"runtime.process.{module}", str(theirs)),
            keep_fds=(theirs,),
            within=within,
        )
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(theirs)
    return process, channel


def tell(channel: Channel, plan: Any, doing: str) -> None:
    """Have *plan* carried out; raises as await_ready."""
    # When it has ended, what it had to say can still be read.
    with suppress(BrokenPipeError, ConnectionResetError):
        channel.send_plan(plan)
    await_ready(channel, doing)


def await_ready(channel: Channel, doing: str) -> None:
    """Wait until it has done its part; SetupFailed when that failed, or it has ended before."""
    try:
        channel.receive(READY)
    except Failed as error:
        raise failure(error) from None
    except (ChannelClosed, UnexpectedMessage) as error:
        raise SetupFailed(doing, str(error)) from error


def start_criu(
    plan: RestorePlan,
    streams: Sequence[int],
    place: Callable[[int], None],
    undo: Undo,
    *,
    within: AbstractContextManager[object],
) -> Criu:
    """Start criu for a restore, and return it once it is where it is to be; it ends with *undo*.

    streams: ours in place of the container's standard descriptors; place: puts a process where
    those of the container are to be, in its cgroups; within: see Criu.start.
    Raises CriuNotFound, SetupFailed, CgroupError, RestoreFailed.
    """
    inherit = _inherit(plan, streams, undo)
    criu, channel = launch(RESTORING, plan.options.criu, within=within, inherit=inherit)
    undo.enter_context(criu)
    undo.callback(channel.close)  # before criu's end: it may be waiting for its plan
    place(criu.pid)
    tell(channel, plan.place_plan(), "starting criu in the container's place")
    return criu


def _inherit(plan: RestorePlan, streams: Sequence[int], undo: Undo) -> dict[str, int]:
    """CRIU's name -> descriptor, of all that it is to find instead of what was dumped."""
    for name, descriptor, fd in zip(_STREAMS, plan.record.descriptors, streams, strict=True):
        if why := descriptors.unusable(descriptor, fd):
            raise RestoreFailed(plan.state.id, f"the given {name} {why}")
    found = descriptors.inherited(plan.record.descriptors, streams)
    for key, path in plan.namespaces.items():
        found[key] = fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, fd)
    return found
