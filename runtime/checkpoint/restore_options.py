"""What a restore is told, by a command line or by the other host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from criu_rpc import ManageCgroups
from runtime.checkpoint.records import Record
from runtime.errors import InvalidNetwork, RestoreFailed
from runtime.network import devices
from runtime.network.models import Network, Networks
from runtime.process.stdio import Stdio

if TYPE_CHECKING:
    from runtime.process.terminal import Terminal

# The fields that travel between hosts beside the record.
_ON_THE_WIRE = (
    "veths",
    "bridges",
    "tcp_established",
    "tcp_close",
    "ext_unix_sk",
    "shell_job",
    "file_locks",
    "lsm_profile",
    "lsm_mount_context",
    "lazy_pages",
    "systemd_cgroup",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """How a container is restored; names are those of runc's options where it has one."""

    image_path: Path
    #: for logs and statistics; image_path when None
    work_path: Path | None = None
    #: what the dump noted; None: what lies in image_path
    record: Record | None = None
    #: interface of the container -> HOST_END[@BRIDGE], where it is not to be as it was
    veths: Mapping[str, str] = field(default_factory=dict)
    #: bridge as it was -> bridge of this host
    bridges: Mapping[str, str] = field(default_factory=dict)
    #: stands in for pipes, sockets and files that led out of the container
    stdio: Stdio = field(default_factory=Stdio)
    #: has the other end of its terminal, if it has one
    terminal: Terminal | None = None
    pid_file: Path | None = None
    tcp_established: bool = False
    #: connections come up closed
    tcp_close: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    #: its network namespace is new and empty, for createRuntime hooks to fill
    empty_network: bool = False
    manage_cgroups_mode: ManageCgroups = ManageCgroups.IGNORE
    lsm_profile: str | None = None
    lsm_mount_context: str | None = None
    #: a server listens at lazy-pages.socket in work_path, which gives the pages that are PE_LAZY
    lazy_pages: bool = False
    #: the images are this restore's alone, which may change them
    own_images: bool = False
    #: whether systemd makes its cgroup; None: as where it was dumped
    systemd_cgroup: bool | None = None
    #: pages that newer images have are freed in older ones
    auto_dedup: bool = False
    #: of the program; None: where find_criu looks
    criu: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """As JSON, for from_wire on another host; the record must be given."""
        assert self.record is not None
        wanted = {name: getattr(self, name) for name in _ON_THE_WIRE}
        return wanted | {
            "veths": dict(self.veths),
            "bridges": dict(self.bridges),
            "record": self.record.to_json(),
        }

    @classmethod
    def from_wire(
        cls, data: Mapping[str, Any], *, images_dir: Path, criu: str | None = None
    ) -> Self:
        """The options in *data*; RestoreFailed when it has others, or of another type."""
        types = {each.name: str(each.type) for each in fields(cls)}
        container_id = "that was sent"
        try:
            record = Record.from_json(data.get("record"))
            container_id = record.container_id
            for name, value in data.items():
                if name != "record" and not _fits(name, value, types):
                    raise ValueError(f"option {name}: {value!r}")
        except ValueError as exc:
            raise RestoreFailed(container_id, f"its options cannot be used: {exc}") from exc
        rest = {name: value for name, value in data.items() if name != "record"}
        return cls(image_path=images_dir, criu=criu, record=record, **rest)

    def dumped_with(self, record: Record) -> Self:
        """The same, with what the dump was allowed added: a restore must allow it too."""
        dumped = record.dumped
        return replace(
            self,
            tcp_established=self.tcp_established or (dumped.tcp_established and not self.tcp_close),
            ext_unix_sk=self.ext_unix_sk or dumped.ext_unix_sk,
            shell_job=self.shell_job or dumped.shell_job,
            file_locks=self.file_locks or dumped.file_locks,
            empty_network=self.empty_network or dumped.empty_network,
        )

    def place(self, networks: Networks, container_id: str) -> Networks:
        """*networks* with the host ends and bridges of this host, each seen to be usable.

        Raises InvalidNetwork.
        """
        self._check_names(networks)
        placed = tuple(
            self._placed(network, container_id) if network in networks.veths else network
            for network in networks.networks
        )
        return Networks(placed, networks.routes)

    def _check_names(self, networks: Networks) -> None:
        known = {network.name for network in networks.veths}
        for name in self.veths.keys() - known:
            why = f"is no veth of the container, which has: {', '.join(sorted(known)) or 'none'}"
            raise InvalidNetwork("--veth", "interface", name, why)
        bridges = {network.bridge for network in networks.veths}
        for name in self.bridges.keys() - bridges:
            why = f"is none of its bridges: {', '.join(sorted(bridges)) or 'it has none'}"
            raise InvalidNetwork("--bridge", "bridge", name, why)

    def _placed(self, network: Network, container_id: str) -> Network:
        host_end, _, bridge = self.veths.get(network.name, "").partition("@")
        bridge = bridge or self.bridges.get(network.bridge, network.bridge)
        if not devices.bridge_exists(bridge):
            why = "is no bridge of this host: create it, or give --bridge OLD=NEW"
            raise InvalidNetwork(network.title, "bridge", bridge, why)
        moved = replace(network, bridge=bridge, host_interface_name=host_end)
        former = network.host_interface_name
        if not host_end and former and not devices.link_exists(former):
            moved = replace(moved, host_interface_name=former)
        name = moved.host_end(container_id)
        if devices.link_exists(name):
            why = f"exists already on this host: give --veth {network.name}=NAME"
            raise InvalidNetwork(network.title, "host end", name, why)
        return replace(moved, host_interface_name=name)


def _fits(name: str, value: Any, types: Mapping[str, str]) -> bool:
    if name not in _ON_THE_WIRE:
        return False
    match types[name]:
        case "bool":
            return isinstance(value, bool)
        case "str | None":
            return value is None or isinstance(value, str)
        case "bool | None":
            return value is None or isinstance(value, bool)
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
