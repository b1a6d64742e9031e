"""What a checkpoint is told, by a command line or by a migration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from criu_rpc import ManageCgroups, NetworkLock, PageServer


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions:
    """How a container is dumped; names are those of runc's options."""

    image_path: Path
    #: for logs and statistics; image_path when None
    work_path: Path | None = None
    leave_running: bool = False
    #: whoever holds the dump ends the container, or refuses it. What waits in terminals that both
    #: ends of are inside is there again then: where CRIU is to kill, it has taken that out, and
    #: left their descriptors O_NONBLOCK (criu/tty.c: tty_dump_queued_data)
    leave_stopped: bool = False
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    #: what its network namespace has is left behind; see RestoreOptions
    empty_network: bool = False
    link_remap: bool = False
    #: the content of tmpfs mounts is packed by us, not by CRIU's tar: quicker, but such images are
    #: restored by this program alone
    own_tmpfs: bool = False
    #: its network namespace is described in the record, where that can be done, and CRIU leaves it
    #: alone, running in it (`Checkpoint.place`): quicker, and for this program alone
    own_network: bool = False
    #: pages that these images have are freed in those of the parent
    auto_dedup: bool = False
    #: where memory is sent; with lazy_pages, where it is served from while the container is held
    page_server: PageServer | None = None
    lazy_pages: bool = False
    #: gets a zero byte, and is closed, when the pages are being served
    status_fd: int | None = None
    ghost_limit_bytes: int | None = None
    timeout_s: int | None = None
    manage_cgroups_mode: ManageCgroups = ManageCgroups.IGNORE
    #: None: what works on this host
    network_lock: NetworkLock | None = None
    #: of the program; None: where find_criu looks
    criu: str | None = field(default=None, compare=False)
