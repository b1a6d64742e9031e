"""Start criu in the place that a container is restored in (runtime/process/restoring.py)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from criu_rpc import Criu, find_criu
from runtime import descriptors
from runtime.errors import RestoreFailed, SetupFailed
from runtime.process.channel import READY, Channel, ChannelClosed, Failed, UnexpectedMessage
from runtime.process.parent import failure, interpreter
from runtime.restore_plan import RestorePlan
from runtime.undo import Undo

_PACKAGES = str(Path(__file__).parents[1])
_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from runtime.process.restoring import main; main(int(sys.argv[2]), sys.argv[3:])"
)
_STREAMS = ("stdin", "stdout", "stderr")


def start_criu(
    plan: RestorePlan,
    streams: Sequence[int],
    place: Callable[[int], None],
    undo: Undo,
    *,
    within: AbstractContextManager[object],
) -> Criu:
    """Start criu for *plan*, and return it once it is where it is to be; it ends with *undo*.

    streams: ours in place of the container's standard descriptors; place: puts a process where
    those of the container are to be, in its cgroups; within: see Criu.start.
    Raises CriuNotFound, SetupFailed, CgroupError, RestoreFailed.
    """
    inherit = _inherit(plan, streams, undo)
    ours, theirs = (end.detach() for end in socket.socketpair())
    channel = Channel(ours)
    python = [interpreter(), "-I", "-S", "-X", "utf8", "-c", _START]
    try:
        criu = undo.enter_context(
            Criu.start(
                find_criu(plan.options.criu),
                inherit=inherit,
                launcher=(*python, _PACKAGES, str(theirs)),
                keep_fds=(theirs,),
                within=within,
            )
        )
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(theirs)
    undo.callback(channel.close)  # before criu's end: it may be waiting for its plan
    place(criu.pid)
    _await_ready(channel, plan)
    return criu


def _await_ready(channel: Channel, plan: RestorePlan) -> None:
    try:
        channel.send_plan(plan.place_plan())
        channel.receive(READY)
    except Failed as error:
        raise failure(error) from None
    except (ChannelClosed, UnexpectedMessage, BrokenPipeError) as error:
        raise SetupFailed("starting criu in the container's place", str(error)) from error


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
