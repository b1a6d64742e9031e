"""All that is counted of one container: libcontainer's Stats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime import resctrl
from runtime.cgroups.stats import CgroupStats
from runtime.network import counters

if TYPE_CHECKING:
    from runtime.container import Container


@dataclass(frozen=True, slots=True)
class Stats:
    """One look at a container; the parts are read one after the other while it runs."""

    cgroup: CgroupStats
    #: empty for a container that shares the host's network
    interfaces: tuple[counters.InterfaceStats, ...] = ()
    #: None where the host has no Intel RDT
    rdt: resctrl.RdtStats | None = None


def of(container: Container) -> Stats:
    """Read what is counted of *container*; raises ContainerError, OSError."""
    apart = any(each.get("type") == "network" for each in container.state.namespaces)
    return Stats(
        cgroup=container.cgroup.stats(),
        interfaces=counters.read(container.netns_path) if apart else (),
        rdt=resctrl.of_process(container.state.init_pid),
    )
