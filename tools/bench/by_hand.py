"""Runs `by-hand`, the script that migrate is measured beside, as a way to move a container."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from lazy_criu import lazy_criu

from criu_rpc.process import find_criu
from migrator.lab.host import Host
from migrator.lab.lab import Lab
from scenarios.bundle import NAMESPACES
from scenarios.workload import (
    CONTAINER_ADDRESS,
    CONTAINER_MAC,
    PREFIX_LENGTH,
    Move,
    Workload,
    bundle_on,
)

_SCRIPT = Path(__file__).with_name("by-hand")
PATIENCE_S = 600
_NETNS = "/run/netns/by-hand"
# Debian 12's runc, 1.1, knows no time namespaces.
_NAMESPACES = tuple(name for name in NAMESPACES if name != "time")


class ByHand:
    """runc on both hosts, and a shell script between them: "stop_and_copy" or "post_copy".

    Raises ScenarioFailed where the latter cannot work.
    """

    def __init__(self, how: str) -> None:
        self._how = how
        self._criu = lazy_criu() if how == "post_copy" else find_criu()

    def start(self, lab: Lab, workload: Workload) -> None:
        """Also prepares the second host, so that the move has nothing left to prepare."""
        source, destination = lab.hosts[:2]
        for host in (source, destination):
            workload.bundle().write(
                bundle_on(host, workload.name), namespaces=_NAMESPACES, network=_NETNS
            )
            address = f"{CONTAINER_ADDRESS}/{PREFIX_LENGTH}"
            host.run(_SCRIPT, "prepare", host.bridge, address, CONTAINER_MAC)
        source.run(_SCRIPT, "start", f"/srv/{workload.name}", workload.name)
        destination.run(_SCRIPT, "expect")
        source.run(_SCRIPT, "connect", lab.ssh_config, destination.name)

    def move(self, lab: Lab, workload: Workload) -> Move:
        source, destination = lab.hosts[:2]
        environment = ("env", f"CRIU={self._criu}")
        words = (str(lab.ssh_config), destination.name, f"/srv/{workload.name}", workload.name)
        begin = time.monotonic()
        done = source.run(
            *environment, _SCRIPT, self._how, *words, source.address, timeout_s=PATIENCE_S
        )
        total_ms = (time.monotonic() - begin) * 1e3
        return Move(total_ms, int(done.stdout))

    def listed(self, host: Host) -> dict[str, str]:
        answer = json.loads(host.run("runc", "list", "--format", "json").stdout)
        return {container["id"]: container["status"] for container in answer or ()}

    def remove(self, lab: Lab, workload: Workload) -> None:
        for host in lab.hosts[:2]:
            _remove_from(host, workload.name)


def _remove_from(host: Host, name: str) -> None:
    host.run(_SCRIPT, "remove", name)
    shutil.rmtree(bundle_on(host, name), ignore_errors=True)
