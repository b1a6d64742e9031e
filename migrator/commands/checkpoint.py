"""`migrator checkpoint`: write a running container to an image directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criu_rpc.logger import Logger
from migrator.commands._common import CRIU, ID
from migrator.commands._options import Kind, choice, integer
from migrator.commands._verb import option, pass_settings, taking, verb
from migrator.errors import UsageProblem

if TYPE_CHECKING:
    from criu_rpc import PageServer
    from migrator.commands._globals import Settings
    from runtime.checkpoint.options import CheckpointOptions
    from runtime.container import Container

logger = Logger(__name__)

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _size(text: str) -> int:
    if match := re.fullmatch(r"(\d+)([KMG]?)", text, re.IGNORECASE):
        return int(match[1]) * _UNITS[match[2].upper()]
    raise ValueError(f"{text!r} is not a size such as 1M")


def _page_server(text: str) -> PageServer:
    from criu_rpc import PageServer

    address, _, port = text.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{text!r} is not of the form ADDRESS:PORT")
    return PageServer(address.strip("[]"), int(port))


@verb()
@taking(ID, *CRIU)
@option("--leave-running", flag=True, help="Let it run on.")
@option("--tcp-skip-in-flight", flag=True, help="Leave half-open connections out.")
@option("--link-remap", flag=True, help="Keep open files that have no name any more.")
@option(
    "--network-lock",
    kind=choice("iptables", "nftables", "skip"),
    help="How packets are held back meanwhile.  [default: what works here]",
)
@option(
    "ghost_limit_bytes",
    "--ghost-limit",
    metavar="SIZE",
    kind=Kind(_size),
    help="Largest open file without a name that is carried.  [default: 1M]",
)
@option(
    "timeout_s",
    "--timeout",
    kind=integer(at_least=1),
    metavar="SECONDS",
    help="How long to try to stop its processes.  [default: 10]",
)
@option("--pre-dump", flag=True, help="Only copy its memory, for a later checkpoint; it runs on.")
@option(
    "--parent-path",
    metavar="PATH",
    help="A --pre-dump before, relative to the image path: what it has is not copied again.",
)
@option(
    "--page-server",
    metavar="ADDRESS:PORT",
    kind=Kind(_page_server),
    help="Send its memory to the page server there; with --lazy-pages: be one, at that address.",
)
@option(
    "--lazy-pages",
    flag=True,
    help="Write all but its memory, and serve that to a restore elsewhere.",
)
@option(
    "--status-fd",
    kind=integer(at_least=0),
    metavar="FD",
    help="Write a zero byte to this descriptor when its memory is being served.",
)
@pass_settings
def command(
    settings: Settings,
    container_id: str,
    image_path: Path,
    network_lock: str | None,
    manage_cgroups_mode: str,
    pre_dump: bool,
    parent_path: str | None,
    lazy_pages: bool,
    **options: Any,
) -> None:
    """Write the memory, files and connections of a running CONTAINER to an image directory.

    The container is then removed, for `migrator restore` to make it again, here or elsewhere. When
    it cannot be written it runs on as before.

    Most of the memory can be written while it runs: with --pre-dump, once or several times, each
    with the one before as --parent-path, and the last of them as that of the checkpoint itself.
    """
    if lazy_pages and not options["page_server"]:
        raise UsageProblem("--lazy-pages needs --page-server: where its memory is served")
    if (lazy_pages or options["page_server"]) and (pre_dump or parent_path):
        raise UsageProblem("--page-server goes neither with --pre-dump nor with --parent-path")
    from criu_rpc import ManageCgroups, NetworkLock
    from migrator.journal import ensure_no_migration
    from runtime.checkpoint import incremental
    from runtime.checkpoint.options import CheckpointOptions
    from runtime.container import Container

    request = CheckpointOptions(
        image_path=image_path.absolute(),
        manage_cgroups_mode=ManageCgroups[manage_cgroups_mode.upper()],
        network_lock=NetworkLock[network_lock.upper()] if network_lock else None,
        criu=settings.criu,
        lazy_pages=lazy_pages,
        **options,
    )
    container = Container.load(settings.root, container_id)
    ensure_no_migration(settings.root, container_id)
    if pre_dump:
        incremental.pre_dump(container, request, parent_path)
    elif parent_path is not None:
        incremental.checkpoint(container, request, parent_path)
    else:
        _checkpoint(container, request)


def _checkpoint(container: Container, request: CheckpointOptions) -> None:
    """Dump it and remove it; who interrupts that has it run on, as long as that can be undone."""
    from criu_rpc import Criu, Notification, Script, find_criu
    from criu_rpc.daemons import end_unless_taken
    from migrator.interrupts import Interrupts
    from runtime.checkpoint.dump import Checkpoint

    def on_notify(notification: Notification) -> None:
        if notification.script == Script.POST_DUMP and not request.leave_running:
            interrupts.hold()  # once CRIU has killed it, the images are all that there is
        elif notification.script == Script.STATUS_READY:
            interrupts.allow_if(undone)

    def undone() -> bool:
        if end_unless_taken(criu.pid):
            return True
        logger.warning("the memory of %s is being fetched: it is served on", container.id)
        return False

    dump = Checkpoint(container, request)
    started = Criu.start(find_criu(request.criu), within=dump.place())
    with Interrupts() as interrupts, started as criu:
        dump.run(on_notify, criu=criu)
        if not request.leave_running:
            container.delete(force=True)
