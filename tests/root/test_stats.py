"""Statistics and events of real containers: numbers that move, and runc's own beside them."""

import json
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import Container
from runtime.errors import NotRunning
from runtime.network import Network, Networks, in_netns
from tests.bundles import merged, spec
from tests.containers import Box
from tests.network_hosts import network_host, network_peer
from tests.root.test_command_line import PROGRAM
from tests.waiting import eventually

pytestmark = [pytest.mark.vm, pytest.mark.needs_root, pytest.mark.needs_busybox]

LIMIT_BYTES = 32 << 20
# Needs 64 MiB at once, and so is killed; the shell that waits for it is not.
GREEDY = "dd if=/dev/zero of=/dev/null bs=64M count=1"


def update_limits(box: Box) -> None:
    box.update(linux={"resources": {"memory": {"limit": LIMIT_BYTES}, "pids": {"limit": 50}}})


def test_the_numbers_move_with_what_the_container_does(box: Box) -> None:
    update_limits(box)
    box.program("sh", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; sleep inf")
    container = box.create()
    before = container.stats().cgroup
    container.start()
    assert eventually(lambda: container.stats().cgroup.cpu.total_ns > before.cpu.total_ns + 10**7)
    after = container.stats().cgroup
    assert after.memory.usage.usage > 0
    assert after.memory.usage.limit == LIMIT_BYTES
    assert after.memory.raw
    assert eventually(lambda: container.stats().cgroup.pids.current >= 1)
    assert after.pids.limit == 50


def test_a_paused_container_is_counted_and_a_stopped_one_is_not(box: Box) -> None:
    container = box.start()
    container.pause()
    assert container.stats().cgroup.pids.current == 1
    container.resume()
    container.signal(9)
    container.wait()
    with pytest.raises(NotRunning):
        container.stats()
    with pytest.raises(NotRunning):
        container.notify_oom()


@pytest.mark.needs_veth
@pytest.mark.needs_bridge
def test_packets_that_a_container_gets_are_counted_as_received(box: Box, name: str) -> None:
    network = Network(type="veth", name="eth0", bridge="br0", address="10.9.0.2/24")
    with network_host(name, "br0"), network_peer(name, "10.9.0.1/24") as peer:
        container = box.start(networks=Networks((network,)))
        (before,) = container.stats().interfaces
        with in_netns(peer), socket.socket(type=socket.SOCK_DGRAM) as sender:
            for _ in range(10):
                sender.sendto(bytes(1000), ("10.9.0.2", 9))

        def received() -> bool:
            (after,) = container.stats().interfaces
            return after.rx_bytes - before.rx_bytes > 10_000

        assert eventually(received)
        (after,) = container.stats().interfaces
        assert (after.name, after.rx_errors) == ("eth0", 0)
        assert after.tx_bytes - before.tx_bytes < after.rx_bytes - before.rx_bytes
        container.delete(force=True)


def test_a_container_in_the_hosts_network_has_no_interfaces_of_its_own(box: Box) -> None:
    listed = [each for each in box.bundle.spec["linux"]["namespaces"] if each["type"] != "network"]
    box.update(linux={"namespaces": listed})
    assert box.start().stats().interfaces == ()


def greedy(box: Box) -> Container:
    """A container that exceeds its limit as soon as a file `go` is there."""
    update_limits(box)
    box.program("sh", "-c", f"while ! [ -e /go ]; do sleep 0.05; done; {GREEDY}; sleep inf")
    return box.start()


def test_an_oom_kill_is_notified_once_and_the_container_goes_on(box: Box) -> None:
    container = greedy(box)
    with container.notify_oom() as oom:
        assert oom.wait(0) == 0
        (box.bundle.rootfs / "go").touch()
        assert oom.wait(10) >= 1
        assert not oom.ended
        container.signal(9)
        assert select.select([oom], [], [], 5)[0] == [oom]
        list(oom)
        assert oom.ended


def test_memory_pressure_is_notified(box: Box) -> None:
    container = greedy(box)
    with container.notify_memory_pressure("critical") as critical:
        (box.bundle.rootfs / "go").touch()
        assert critical.wait(10) >= 1
    with pytest.raises(ValueError, match="nonsense"):
        container.notify_memory_pressure("nonsense")


def events(box: Box, *options: str) -> subprocess.Popen[str]:
    argv = [str(PROGRAM), "--root", str(box.root), "events", *options, box.id]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def test_events_streams_statistics_and_kills_until_the_container_ends(box: Box) -> None:
    container = greedy(box)
    with events(box, "--interval", "100ms") as process:
        told = lines(process)
        first = next(told)
        assert (first["type"], first["id"]) == ("stats", box.id)
        (box.bundle.rootfs / "go").touch()
        oom = next(each for each in told if each["type"] == "oom")
        assert oom == {"type": "oom", "id": box.id}
        second = next(each for each in told if each["type"] == "stats")
        assert second["data"]["cpu"]["usage"]["total"] > first["data"]["cpu"]["usage"]["total"]
        container.signal(9)
        list(told)
        assert process.wait(10) == 0


def test_events_ends_at_once_with_statistics_alone(box: Box) -> None:
    box.start()
    began = time.monotonic()
    with events(box, "--stats", "--interval", "1h") as process:
        (only,) = lines(process)
    assert process.returncode == 0
    assert only["data"]["pids"] == {"current": 1}
    assert time.monotonic() - began < 60


def keys(value: Any) -> Any:
    """The shape of a JSON value."""
    if isinstance(value, dict):
        return {key: keys(each) for key, each in sorted(value.items())}
    return type(value).__name__


@pytest.mark.needs_runc
@pytest.mark.needs_cgroup_v1
def test_the_shape_is_that_of_runc(box: Box, room: Path) -> None:
    limited = {"memory": {"limit": LIMIT_BYTES}, "cpu": {"quota": 50000, "period": 100000}}
    box.update(linux={"resources": limited})
    container = box.start()
    with events(box, "--stats") as process:
        (ours,) = lines(process)
    theirs = runc_stats(box, room)
    container.delete(force=True)
    for each in (ours, theirs):  # what only a container that has done more has
        for part in each["data"]["memory"].values():
            part.pop("usage", None) if isinstance(part, dict) else None
            part.pop("max", None) if isinstance(part, dict) else None
        each["data"]["memory"].pop("cache", None)
        for name in ("periods", "throttledPeriods", "throttledTime"):
            each["data"]["cpu"]["throttling"].pop(name, None)
    assert keys(ours) == keys(theirs)


def runc_stats(box: Box, room: Path) -> dict[str, Any]:
    own = merged(spec("sleep", "inf"), box.bundle.spec)
    own["linux"]["namespaces"] = [
        each for each in own["linux"]["namespaces"] if each["type"] != "time"
    ]
    own["linux"]["cgroupsPath"] = f"/{box.id}-runc"
    box.bundle.write(own)
    runc, name = ["runc", "--root", str(room / "runc")], f"{box.id}-runc"
    argv = [*runc, "run", "--detach", "--bundle", str(box.bundle.path), name]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        printed = subprocess.run(
            [*runc, "events", "--stats", name], check=True, capture_output=True
        )
        found: dict[str, Any] = json.loads(printed.stdout)
        return found
    finally:
        subprocess.run([*runc, "delete", "--force", name], check=True)
