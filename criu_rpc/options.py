"""The options of a dump and a restore: criu_opts of CRIU's rpc.proto, typed.

A field is named as CRIU's is, with its unit added where it has one; None and () leave CRIU's
default alone. Left out is what CRIU calls deprecated; inherited descriptors are given to
`Criu.start`, since they must be open in criu from its start.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any


class ManageCgroups(IntEnum):
    """What CRIU does about cgroups (criu_cg_mode)."""

    IGNORE = 0
    NONE = 1
    PROPS = 2
    SOFT = 3
    FULL = 4
    STRICT = 5
    DEFAULT = 6


class NetworkLock(IntEnum):
    """How packets are dropped between dump and restore (criu_network_lock_method)."""

    IPTABLES = 1
    NFTABLES = 2
    SKIP = 3


class PreDumpMode(IntEnum):
    """How a pre-dump reads memory (criu_pre_dump_mode)."""

    SPLICE = 1
    VM_READ = 2


@dataclass(frozen=True, slots=True)
class PageServer:
    """Where memory pages are sent instead of into the image directory."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class VethPair:
    """A veth of the container: its end *inside*, and *outside* = `HOSTNAME[@BRIDGE]`."""

    inside: str
    outside: str


@dataclass(frozen=True, slots=True)
class JoinNamespace:
    """A namespace that the restored tree enters instead of getting its own."""

    kind: str
    path: Path
    extra: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """What dump and restore share."""

    images_dir: Path
    #: where log and stats-* go; images_dir when None
    work_dir: Path | None = None
    log_file: str = "criu.log"
    #: 0 (nothing) to 4 (debug: the cause of a failure is only found in it)
    log_level: int = 4
    root: Path | None = None
    #: read after, and stronger than, everything here
    config_file: Path | None = None

    external: tuple[str, ...] = ()
    #: (key, value): dump - mount point and name; restore - name and source
    ext_mnt: tuple[tuple[str, str], ...] = ()
    skip_mnt: tuple[str, ...] = ()
    enable_fs: tuple[str, ...] = ()
    auto_ext_mnt: bool | None = None
    ext_sharing: bool | None = None
    ext_masters: bool | None = None

    tcp_established: bool = False
    tcp_close: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    evasive_devices: bool = False
    link_remap: bool = False
    force_irmap: bool = False
    irmap_scan_paths: tuple[Path, ...] = ()
    auto_dedup: bool = False
    lazy_pages: bool = False
    orphan_pts_master: bool = False
    skip_file_rwx_check: bool = False
    weak_sysctls: bool = False
    cpu_cap: int | None = None
    #: CLONE_NEW* bits of namespaces whose content is neither dumped nor restored
    empty_ns: int | None = None
    ghost_limit_bytes: int | None = None
    timeout_s: int | None = None
    network_lock: NetworkLock | None = None
    manage_cgroups_mode: ManageCgroups | None = None
    cgroup_props: str | None = None
    cgroup_props_file: Path | None = None
    cgroup_dump_controller: tuple[str, ...] = ()
    cgroup_yard: Path | None = None
    page_server: PageServer | None = None
    tls: bool = False
    tls_cacert: Path | None = None
    tls_cacrl: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_no_cn_verify: bool = False
    unprivileged: bool = False

    @property
    def log_path(self) -> Path:
        """Where CRIU's log will be, unless a configuration file moves it."""
        return (self.work_dir or self.images_dir) / self.log_file


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions(CommonOptions):
    """What is dumped, and what becomes of it."""

    pid: int
    log_file: str = "dump.log"
    leave_running: bool = False
    leave_stopped: bool = False
    tcp_skip_in_flight: bool = False
    #: freezer cgroup (v1 or v2 directory) that holds the tree; else tasks are seized one by one
    freeze_cgroup: Path | None = None
    #: relative to images_dir, as CRIU links it
    parent_img: str | None = None
    track_mem: bool = False
    pre_dump_mode: PreDumpMode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions(CommonOptions):
    """Where and how the dumped tree comes to life."""

    log_file: str = "restore.log"
    #: the restored root task becomes our child, not criu's
    rst_sibling: bool = True
    evasive_devices: bool = True
    veths: tuple[VethPair, ...] = ()
    join_ns: tuple[JoinNamespace, ...] = ()
    #: (controller, path); the controller of the v2 hierarchy is None
    cg_roots: tuple[tuple[str | None, str], ...] = ()
    lsm_profile: str | None = None
    lsm_mount_context: str | None = None
    mntns_compat_mode: bool = False


def fill(message: Any, options: CommonOptions) -> None:
    """Write *options* into *message*, a criu_opts; directories are the caller's, as descriptors."""
    for field in fields(options):
        value = getattr(options, field.name)
        if value is None or value == () or field.name in _BY_DESCRIPTOR:
            continue
        if put := _COMPOSITE.get(field.name):
            put(message, value)
        elif isinstance(value, tuple):
            getattr(message, field.name).extend(str(item) for item in value)
        else:
            name = _RENAMED.get(field.name, field.name)
            setattr(message, name, str(value) if isinstance(value, Path) else value)


_BY_DESCRIPTOR = frozenset({"images_dir", "work_dir"})
_RENAMED = {"ghost_limit_bytes": "ghost_limit", "timeout_s": "timeout"}


def _put_ext_mnt(message: Any, pairs: tuple[tuple[str, str], ...]) -> None:
    # the field ext_mnt itself is deprecated, and turned by CRIU into just this
    message.external.extend(f"mnt[{key}]:{value}" for key, value in pairs)


def _put_veths(message: Any, veths: tuple[VethPair, ...]) -> None:
    for veth in veths:
        message.external.append(f"veth[{veth.inside}]:{veth.outside}")


def _put_join_ns(message: Any, joined: tuple[JoinNamespace, ...]) -> None:
    for entry in joined:
        message.join_ns.add(ns=entry.kind, ns_file=str(entry.path), extra_opt=entry.extra)


def _put_cg_roots(message: Any, roots: tuple[tuple[str | None, str], ...]) -> None:
    for controller, path in roots:
        message.cg_root.add(ctrl=controller, path=path)


def _put_page_server(message: Any, server: PageServer) -> None:
    message.ps.address, message.ps.port = server.address, server.port


_COMPOSITE: dict[str, Callable[[Any, Any], None]] = {
    "ext_mnt": _put_ext_mnt,
    "veths": _put_veths,
    "join_ns": _put_join_ns,
    "cg_roots": _put_cg_roots,
    "page_server": _put_page_server,
}
