"""A container that counts moves to the other host, back again, and on shared storage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrator.lab.host import Host
from tests import bundles
from tests.faults.moves import COUNT, NAME, Counter, counting, eventually, processes
from tests.lab.hosts import NEEDED, TwoHosts

pytestmark = NEEDED


@pytest.fixture
def counter(two_hosts: TwoHosts) -> Iterator[Counter]:
    with counting(two_hosts) as counter:
        yield counter


def migrate(hosts: TwoHosts, source: Host, destination: Host, *more: str) -> dict[str, Any]:
    """The report of a migration from one host to the other."""
    done = source.run(
        "migrator", "migrate", "-F", str(hosts.lab.ssh_config), "--json", *more,
        "--bridge", f"{source.bridge}={destination.bridge}", NAME, f"root@{destination.name}",
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_there_and_back_again(two_hosts: TwoHosts, counter: Counter) -> None:
    alpha, beta = two_hosts.source, two_hosts.destination
    there = migrate(two_hosts, alpha, beta)
    assert counter.where_it_runs() == "destination"
    counter.last = counter.count(beta)
    back = migrate(two_hosts, beta, alpha)
    assert counter.where_it_runs() == "source"
    assert back["rootfs_bytes"] < there["rootfs_bytes"] / 10, "the files were there already"
    beta.run("rm", "-rf", f"/srv/{NAME}")
    counter.remove("source")


def test_the_report_says_what_happened(two_hosts: TwoHosts, counter: Counter) -> None:
    report = migrate(two_hosts, two_hosts.source, two_hosts.destination)
    assert (report["container"], report["outcome"], report["mode"]) == (NAME, "migrated", "hybrid")
    assert report["destination"] == two_hosts.destination.name
    assert 0 < report["downtime_ms"] < report["total_ms"]
    memory = report["memory"]
    parts = report["image_bytes"], report["rootfs_bytes"], memory["bytes"]
    assert report["bytes"] == sum(parts) > 0
    assert memory["rounds"][0]["pages"] > 0 < memory["filled"]["pages"]
    names = [phase["name"] for phase in report["phases"] if phase["host"] == "source"]
    expected = (
        "load connect preflight prepare sync copy arm copy dump complete sync send last restore "
        "fence commit end clean fill finish"
    )
    assert [name.split()[0] for name in names] == expected.split()
    frozen = {phase["name"] for phase in report["phases"] if phase["frozen"]}
    assert {"dump", "last pages", "send images", "restore", "fence", "commit"} <= frozen
    assert not frozen & {"connect", "preflight", "prepare", "copy memory", "arm", "clean up"}
    counter.remove("destination")


@pytest.mark.parametrize("mode", ["hybrid", "cold"])
def test_a_seccomp_profile_holds_there_too(two_hosts: TwoHosts, mode: str) -> None:
    forbidding = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [forbidding]}
    with counting(two_hosts, linux={"seccomp": profile}) as counter:
        beta = two_hosts.destination
        migrate(two_hosts, two_hosts.source, beta, "--mode", mode)
        (init,) = processes(beta, r"sh -c n=0;")
        status = beta.run("cat", f"/proc/{init}/status").stdout
        assert "Seccomp:\t2\nSeccomp_filters:\t1\n" in status
        refused = beta.run("migrator", "exec", NAME, "mkdir", "/made", check=False)
        assert (refused.returncode, "Argument list too long" in refused.stderr) == (1, True)
        assert counter.where_it_runs() == "destination"
        counter.remove("destination")


def test_on_shared_storage_no_file_moves(two_hosts: TwoHosts) -> None:
    alpha, beta = two_hosts.source, two_hosts.destination
    shared = Path(two_hosts.lab.ssh_config).parent / "shared"
    bundle = bundles.make(shared, "sh", "-c", COUNT)
    count = bundle.rootfs / "tmp/count"
    network = f"type=veth,name=eth0,bridge={alpha.bridge},address=10.77.9.9/16"
    script = 'exec </dev/null >/dev/null 2>&1; exec migrator run -d --network "$1" -b "$2" "$3"'
    alpha.run("sh", "-c", script, "sh", network, str(shared), NAME)
    eventually(count.exists, "it counts")
    report = migrate(two_hosts, alpha, beta, "--rootfs", "shared")
    assert report["rootfs_bytes"] == 0
    before = int(count.read_text())
    eventually(lambda: int(count.read_text()) > before > 0, "it goes on counting")
    beta.run("migrator", "delete", "--force", NAME)
    shutil.rmtree(shared)
