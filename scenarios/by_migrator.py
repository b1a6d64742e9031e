"""Run and move a story's container with the `migrator` command, as a user would."""

from __future__ import annotations

import json
import shutil

from migrator.lab.errors import StepFailed
from migrator.lab.host import Host
from migrator.lab.lab import Lab
from scenarios.errors import ScenarioFailed
from scenarios.workload import (
    CONTAINER_ADDRESS,
    CONTAINER_MAC,
    PREFIX_LENGTH,
    Move,
    Workload,
    bundle_on,
)

PATIENCE_S = 600

# The container inherits our standard streams: /dev/null exists on every host.
_RUN = """
exec </dev/null >/dev/null 2>&1
exec migrator --log "$1" run --detach --network "$2" --bundle "$3" "$4"
"""


class ByMigrator:
    """`migrator run` on the first host, `migrator migrate` to the second, in that mode.

    mode: as in `migrate --mode`; None: what it does by itself.
    """

    def __init__(self, mode: str | None = None) -> None:
        self._options = ("--mode", mode) if mode else ()

    def start(self, lab: Lab, workload: Workload) -> None:
        source = lab.hosts[0]
        workload.bundle().write(bundle_on(source, workload.name))
        network = (
            f"type=veth,name=eth0,bridge={source.bridge},"
            f"address={CONTAINER_ADDRESS}/{PREFIX_LENGTH},mac={CONTAINER_MAC}"
        )
        log, bundle = f"/srv/{workload.name}.log", f"/srv/{workload.name}"
        try:
            source.run("sh", "-c", _RUN, "sh", log, network, bundle, workload.name)
        except StepFailed:
            said = source.run("tail", "-n", "1", log, check=False).stdout.strip()
            raise ScenarioFailed(f"cannot run {workload.name} on {source.name}: {said}") from None

    def move(self, lab: Lab, workload: Workload) -> Move:
        """Raises StepFailed with migrator's own message when it does not succeed."""
        source, destination = lab.hosts[:2]
        done = source.run(
            "migrator", "migrate", "-F", lab.ssh_config, "--json",
            "--bridge", f"{source.bridge}={destination.bridge}", *self._options,
            workload.name, f"root@{destination.name}", timeout_s=PATIENCE_S,
        )  # fmt: skip
        report = json.loads(done.stdout)
        return Move(report["total_ms"], report["bytes"], report["downtime_ms"], report)

    def listed(self, host: Host) -> dict[str, str]:
        answer = json.loads(host.run("migrator", "list", "--format", "json").stdout or "null")
        return {container["id"]: container["status"] for container in answer or ()}

    def remove(self, lab: Lab, workload: Workload) -> None:
        for host in lab.hosts:
            host.run("migrator", "delete", "--force", workload.name, check=False)
            shutil.rmtree(bundle_on(host, workload.name), ignore_errors=True)
            bundle_on(host, f"{workload.name}.log").unlink(missing_ok=True)
