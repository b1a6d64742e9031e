"""What source and agent say to each other, in the order in which they say it.

    source                                   agent (destination)
    Hello ---------------------------------> Welcome            versions; who is there
    Preflight -----------------------------> Verdict            why not, all reasons at once
    Prepare -------------------------------> Prepared           id reserved, bundle, data plane
       (the files of the container, its pages and image files move over the data plane)
    Arm -----------------------------------> Armed              CRIU started, cgroup made
    Restore -------------------------------> Restored           whole, held before it runs
    Commit --------------------------------> Running            it runs there and nowhere else
    Fill ----------------------------------> Filled             every page is in its place
    Finish --------------------------------> Finished           images and journal removed

    Discard -------------------------------> Discarded          at any time before Commit
    Resolve -------------------------------> Resolved           after a crash: "running" or "dead"
    Attach --------------------------------> Attached           post-copy: after a lost connection

Any request may be answered by Failed instead. While the connection stands the source sends a Ping a
second, which is not answered: an agent that hears nothing for long knows that the source is gone.
Fields are plain JSON types; sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: from Restore to Restored, with all of its pages: the source stands still meanwhile, and then
#: gives up
RESTORE_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Hello:
    protocol: int
    version: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """machine: this one, its boot and records, so that an answer about the past can be believed."""

    protocol: int
    version: str
    hostname: str
    machine: str


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the destination must offer; cpuinfo is CRIU's cpuinfo.img in base64."""

    container: str
    bundle: str
    rootfs: str
    rootfs_mode: str
    rootfs_bytes: int
    memory_bytes: int
    machine: str
    criu_version: list[int]
    cpuinfo: str
    cgroup_version: str
    #: its cgroup is a unit of systemd's
    systemd: bool
    namespaces: list[str]
    #: it has a user namespace of its own
    user_namespace: bool
    bridges: list[str]
    mount_sources: list[str]
    #: AppArmor profiles that its processes are under
    profiles: list[str]
    #: at which its terminal is taken, "" when it has none
    console_socket: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """lazy_pages: whether a restore there may leave pages to a server (userfaultfd); not looked at
    where there are reasons.
    """

    reasons: list[str]
    lazy_pages: bool


@dataclass(frozen=True, slots=True)
class Prepare:
    """config: config.json's text; certificate: the source's one-time TLS certificate, PEM.

    shared_bytes: of memory_bytes, what processes share and is given before the freeze.
    memory: how it comes: in "images", as pages into a "store", as the same but "whole" before the
    restore, or page by page from the "source" once it runs; give_up_after_s: how long it may wait
    for that source then, None: for ever.
    """

    migration: str
    container: str
    bundle: str
    rootfs: str
    rootfs_mode: str
    memory_bytes: int
    shared_bytes: int
    memory: str
    give_up_after_s: float | None
    keep_pages: bool
    config: str
    certificate: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """keeps_bytes: of pages that are given before the images, of which they are a part."""

    address: str
    port: int
    certificate: str
    keeps_bytes: int


@dataclass(frozen=True, slots=True)
class Arm:
    """Start CRIU.

    options: of the restore, as runtime.checkpoint.restore reads them; hot: runs of pages
    [space, start, end] that are wanted first, the hottest at the head.
    """

    options: dict[str, Any]
    hot: list[list[int]]


@dataclass(frozen=True, slots=True)
class Armed:
    """network_refused: why the network namespace is left to CRIU, "" where it was made."""

    network_refused: str


@dataclass(frozen=True, slots=True)
class Restore:
    """files: every image file and its size.

    With pages: spaces is each process (its pid inside) and the space that its pages lie in;
    fill_first: not to be run before all are there.
    """

    files: dict[str, int]
    spaces: dict[str, int]
    fill_first: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """phases: of the destination: name, ms since Restore came, duration in ms."""

    pid: int
    phases: list[list[Any]]


@dataclass(frozen=True, slots=True)
class Commit:
    """held: packets that came for it while it stood still, as runtime.network.held has them."""

    held: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Running:
    pid: int
    phases: list[list[Any]]


@dataclass(frozen=True, slots=True)
class Fill:
    """Answer when every page is in its place."""


@dataclass(frozen=True, slots=True)
class Filled:
    """How the pages came: those that the container had to wait for among them."""

    pages: int
    faults: int
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Finish:
    migration: str
    container: str


@dataclass(frozen=True, slots=True)
class Finished:
    pass


@dataclass(frozen=True, slots=True)
class Discard:
    why: str


@dataclass(frozen=True, slots=True)
class Discarded:
    pass


@dataclass(frozen=True, slots=True)
class Resolve:
    migration: str
    container: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """outcome: "running" or "dead"."""

    outcome: str


@dataclass(frozen=True, slots=True)
class Attach:
    """Open a way to the server that waits for pages; certificate: as in Prepare."""

    migration: str
    container: str
    certificate: str


@dataclass(frozen=True, slots=True)
class Attached:
    """state: "waiting" (the rest says where), "complete", or "lost", and why."""

    state: str
    why: str
    address: str
    port: int
    certificate: str


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Failed:
    """kind: the class name of the error at the other side; message: its one line."""

    kind: str
    message: str


REGISTRY: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        Hello, Welcome, Preflight, Verdict, Prepare, Prepared, Arm, Armed, Restore, Restored,
        Commit, Running, Fill, Filled, Finish, Finished, Discard, Discarded, Resolve, Resolved,
        Attach, Attached, Ping, Failed,
    )
}  # fmt: skip
