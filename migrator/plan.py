"""What the user asked a migration to be; nothing here changes while it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrator.errors import UsageProblem

ROOTFS_MODES = ("sync", "shared")
MODES = ("auto", "hybrid", "pre-copy", "post-copy", "cold")
COMPRESSIONS = ("auto", "none", "lz4", "zstd")
DEFAULT_COMMIT_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Destination:
    """Where to: ``[user@]host[:port]`` and how to get there.

    ssh_config: read instead of ~/.ssh/config and /etc/ssh/ssh_config; identity: a private key file;
    agent: the command that is `migrator` over there.
    """

    host: str
    user: str | None = None
    port: int | None = None
    ssh_config: Path | None = None
    identity: Path | None = None
    agent: str = "migrator"

    @classmethod
    def parse(cls, text: str, **more: Any) -> Destination:
        """Read ``[user@]host[:port]`` or ``[user@][ipv6]:port``; UsageProblem if it is neither."""
        user, _, rest = text.rpartition("@")
        host, port = rest, ""
        if rest.startswith("["):
            host, _, port = rest[1:].partition("]")
            port = port.removeprefix(":")
        elif rest.count(":") == 1:
            host, _, port = rest.partition(":")
        if not host or (port and not port.isdigit()) or host.startswith("-"):
            raise UsageProblem(f"{text!r} is no destination: give [user@]host[:port]")
        return cls(host=host, user=user or None, port=int(port) if port else None, **more)

    def __str__(self) -> str:
        return self.host

    def to_json(self) -> dict[str, Any]:
        """For a journal, whose reader may be in another directory; see from_json."""
        return {
            "host": self.host,
            "user": self.user,
            "port": self.port,
            "ssh_config": self.ssh_config and str(self.ssh_config.absolute()),
            "identity": self.identity and str(self.identity.absolute()),
            "agent": self.agent,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Destination:
        """What to_json made."""
        paths = {key: Path(data[key]) if data[key] else None for key in ("ssh_config", "identity")}
        return cls(**{**data, **paths})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One migration of *container* (below the state root *root*) to *destination*.

    bridges: bridge here -> bridge there, for those whose names differ; rootfs_mode: "sync" moves
    the files, "shared" finds them at the same path there; bundle: where the bundle is to lie there
    (default: same path); commit_wait_s: how long an unanswered commit is asked again before the
    source is left frozen.

    mode: how the memory moves (docs/migration.md); downtime_ms: what the copy rounds aim at;
    max_rounds, max_time_s: what ends them else; converge: slow the container down where it writes
    faster than the link carries; compression of pages; bandwidth: bytes a second, None: the link's;
    give_up_after_s: how long a post-copy's pages may stay away before the container is given up,
    None: for ever; keep_pages: what has arrived stays there when it fails, for the next attempt;
    systemd_cgroup: whether systemd makes the cgroup there, None: as here; console_socket: a unix
    socket there, at which somebody listens for the other end of its terminal.
    """

    container: str
    root: Path
    destination: Destination
    bridges: Mapping[str, str] = field(default_factory=dict)
    rootfs_mode: str = "sync"
    bundle: Path | None = None
    criu: str | None = None
    ext_unix_sk: bool = False
    commit_wait_s: float = DEFAULT_COMMIT_WAIT_S
    mode: str = "auto"
    downtime_ms: float = 300.0
    max_rounds: int = 30
    max_time_s: float = 600.0
    converge: bool = False
    compression: str = "auto"
    bandwidth: int | None = None
    give_up_after_s: float | None = None
    keep_pages: bool = False
    systemd_cgroup: bool | None = None
    console_socket: Path | None = None

    def __post_init__(self) -> None:
        if self.rootfs_mode not in ROOTFS_MODES:
            raise UsageProblem(
                f"rootfs mode {self.rootfs_mode!r}: give one of {', '.join(ROOTFS_MODES)}"
            )
        if self.mode not in MODES:
            raise UsageProblem(f"mode {self.mode!r}: give one of {', '.join(MODES)}")
        if self.compression not in COMPRESSIONS:
            raise UsageProblem(
                f"compression {self.compression!r}: give one of {', '.join(COMPRESSIONS)}"
            )
        if self.downtime_ms <= 0 or self.max_rounds < 1 or self.max_time_s <= 0:
            raise UsageProblem("--downtime, --max-rounds and --max-time must be above 0")
        if self.bundle is not None and not self.bundle.is_absolute():
            raise UsageProblem(f"bundle path {self.bundle} at the destination must be absolute")
        if self.console_socket is not None and not self.console_socket.is_absolute():
            raise UsageProblem(
                f"console socket {self.console_socket} at the destination must be absolute"
            )

    def chosen_mode(self, lazy_pages: bool) -> tuple[str, list[str]]:
        """The mode that "auto" stands for, and what stands against another.

        lazy_pages: whether a restore at the destination may leave pages to a server.
        """
        if self.mode == "auto":
            return "hybrid" if lazy_pages else "pre-copy", []
        if lazy_pages or self.mode in ("cold", "pre-copy"):
            return self.mode, []
        return self.mode, ["pages cannot be served there once it runs: give --mode pre-copy"]


_UNITS_MS = {"ms": 1.0, "s": 1000.0, "min": 60_000.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min)?")


def parse_duration_ms(text: str, *, unit: str = "s") -> float:
    """``300ms``, ``2s``, ``5min``; a bare number is in *unit*. UsageProblem for anything else."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise UsageProblem(f"{text!r} is no duration: give a number and ms, s or min")
    return float(found[1]) * _UNITS_MS[found[2] or unit]


def parse_bridges(pairs: tuple[str, ...]) -> dict[str, str]:
    """``OLD=NEW`` of each --bridge; UsageProblem for anything else."""
    bridges = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new) or len(new) > 15 or "/" in new:
            raise UsageProblem(
                f"--bridge {pair!r}: give OLD=NEW, the bridge here and the bridge there"
            )
        bridges[old] = new
    return bridges
