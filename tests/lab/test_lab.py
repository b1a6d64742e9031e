"""The lab itself: hosts that are apart and connected, and nothing left of it in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrator.lab import cgroups, node
from migrator.lab import lab as labs
from migrator.lab.errors import LabBroken, LabError, NoSuchHost, NoSuchLab, StepFailed
from migrator.lab.layout import LABS
from tests import leftovers
from tests.faults.moves import eventually
from tests.lab.hosts import TwoHosts, differences, nothing_left_behind, on_machine, snapshot

pytestmark = pytest.mark.needs_root

MIB = 1 << 20
SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000)) as out:
    data = bytes(1 << 16)
    for _ in range(int(sys.argv[2]) >> 16):
        out.sendall(data)
"""
RECEIVE = """
import socket, sys, time
listener = socket.create_server(("", 7000))
print("ready", flush=True)
taker, _ = listener.accept()
taker.recv(1)
begin, count = time.monotonic(), 0
while data := taker.recv(1 << 16):
    count += len(data)
print(count / (time.monotonic() - begin))
"""


@pytest.fixture
def lab_name(name: str) -> Iterator[str]:
    yield name
    if name in labs.names():
        labs.down(name)


def python(source: str) -> tuple[str, ...]:
    return "/usr/bin/python3", "-I", "-S", "-c", source


def throughput(sender: labs.Host, receiver: labs.Host, size: int) -> float:
    """Bytes a second that one connection carries."""
    taking = receiver.popen(*python(RECEIVE), stdout=subprocess.PIPE)
    with taking:
        assert taking.stdout is not None
        assert taking.stdout.readline() == "ready\n"
        sender.run(*python(SEND), receiver.address, str(size))
        return float(taking.stdout.read())


def left_of(name: str) -> list[str]:
    """What of a lab of that name is on this machine itself."""
    places = [h.mount_point / f"migrator-lab-{name}" for h in cgroups.hierarchies()]
    mounted = [point for point in leftovers.mount_points() if f"/{name}/" in point]
    running = filter(None, map(_command_line, Path("/proc").glob("[0-9]*")))
    return [
        *(str(path) for path in (*places, LABS / name) if path.exists()),
        *mounted,
        *(line for line in running if f"/{name}/" in line and "init.py" in line),
        *(link for link in os.listdir("/sys/class/net") if link in ("mig-sw", "mig-alpha")),
    ]


def _command_line(directory: Path) -> str:
    try:
        return (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_up_and_down_leave_nothing_on_the_machine(lab_name: str) -> None:
    labs.up(lab_name)
    assert len(left_of(lab_name)) > len(cgroups.hierarchies())
    labs.down(lab_name)
    assert left_of(lab_name) == []


@pytest.mark.parametrize("step", ["ssh.write_files", "network.switch_commands", "ssh.find_sshd"])
def test_a_failing_up_undoes_itself(
    lab_name: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StepFailed("go on", "the test says so")

    monkeypatch.setattr(f"migrator.lab.{step}", fail)
    with pytest.raises(StepFailed, match="the test says so"):
        labs.up(lab_name)
    assert left_of(lab_name) == []


@pytest.mark.parametrize("delay_ms", range(20, 400, 40))
def test_down_removes_what_a_killed_up_has_left(lab_name: str, delay_ms: int) -> None:
    source = f"from migrator.lab import lab; lab.up({lab_name!r})"
    with subprocess.Popen([sys.executable, "-c", source]) as up:
        time.sleep(delay_ms / 1000)
        up.kill()
    if lab_name in labs.names():
        labs.down(lab_name)
    assert left_of(lab_name) == []


def test_the_next_up_removes_labs_whose_owner_was_killed(lab_name: str) -> None:
    source = f"from migrator.lab import lab; lab.up({lab_name!r}, owned=True); input()"
    with subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE) as up:
        while lab_name not in labs.names() or not (LABS / lab_name / "lab.json").exists():
            time.sleep(0.01)
        up.kill()
    other = f"{lab_name}-other"
    labs.up(other)
    eventually(lambda: lab_name not in labs.names(), "it is removed, by whichever up was first")
    labs.down(other)


def test_a_second_up_is_refused_and_changes_nothing(lab: labs.Lab) -> None:
    with pytest.raises(LabError, match="is up already"):
        labs.up(lab.name)
    assert labs.load(lab.name) == lab


def test_a_lab_with_a_dead_host_is_called_broken_and_can_be_removed(lab_name: str) -> None:
    up = labs.up(lab_name)
    pid = node.init_pid(up.hosts[1].node)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while node.init_pid(up.hosts[1].node):
        time.sleep(0.01)
    with pytest.raises(LabBroken, match="beta not running"):
        labs.load(lab_name)
    labs.down(lab_name)
    with pytest.raises(NoSuchLab):
        labs.load(lab_name)


@pytest.mark.needs_cgroup_v1
def test_down_ends_processes_that_are_frozen(lab_name: str) -> None:
    alpha = labs.up(lab_name).hosts[0]
    freeze = """
        mkdir /sys/fs/cgroup/freezer/c
        sleep 600 >/dev/null 2>&1 &
        until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done
        echo $! > /sys/fs/cgroup/freezer/c/cgroup.procs
        echo FROZEN > /sys/fs/cgroup/freezer/c/freezer.state
        cat /sys/fs/cgroup/freezer/c/freezer.state
    """
    assert alpha.run("sh", "-ec", freeze).stdout in ("FROZEN\n", "FREEZING\n")
    labs.down(lab_name)
    assert left_of(lab_name) == []


def test_hosts_have_processes_names_and_directories_of_their_own(two_hosts: TwoHosts) -> None:
    source, destination = two_hosts.source, two_hosts.destination
    assert source.run("hostname").stdout == "alpha\n"
    assert destination.run("hostname").stdout == "beta\n"
    assert source.run("cat", "/proc/1/comm").stdout == "python3\n"
    for directory in ("/run", "/tmp", "/srv", "/dev/shm", "/var/lib/migrator"):
        source.run("touch", f"{directory}/mig-test-of-alpha")
        assert destination.run("ls", directory).stdout.find("mig-test-of-alpha") < 0
        assert not Path(directory, "mig-test-of-alpha").exists()
        source.run("rm", f"{directory}/mig-test-of-alpha")


def test_the_same_cgroup_path_is_another_cgroup_on_each_host(two_hosts: TwoHosts) -> None:
    for hierarchy in cgroups.hierarchies():
        path = hierarchy.mount_point / "migrator-test"
        for host in (two_hosts.source, two_hosts.destination):
            host.run("mkdir", path)
        assert not path.exists()
        for host in (two_hosts.source, two_hosts.destination):
            host.run("rmdir", path)


def test_commands_run_in_the_cgroups_of_their_host(two_hosts: TwoHosts) -> None:
    listed = two_hosts.source.run("cat", "/proc/self/cgroup").stdout.split()
    assert {line.rpartition(":")[2] for line in listed} == {f"/{cgroups.LEAF}"}


def test_run_is_a_tmpfs_so_that_criu_caches_its_probing(two_hosts: TwoHosts) -> None:
    assert two_hosts.source.run("stat", "-f", "-c", "%T", "/run").stdout == "tmpfs\n"


@pytest.mark.parametrize("name", ["beta", "root@beta", "alpha"])
def test_hosts_reach_each_other_by_ssh_and_find_migrator_there(
    two_hosts: TwoHosts, name: str
) -> None:
    command = ("ssh", "-F", two_hosts.lab.ssh_config, name, "hostname; command -v migrator")
    said = two_hosts.source.run(*command).stdout.split()
    assert said == [name.removeprefix("root@"), str(Path(sys.prefix, "bin/migrator"))]


def test_ssh_passes_bytes_and_exit_status(two_hosts: TwoHosts) -> None:
    command = ("ssh", "-F", two_hosts.lab.ssh_config, "beta", "cat; exit 7")
    done = two_hosts.source.run(*command, text_in="over there", check=False)
    assert (done.stdout, done.returncode) == ("over there", 7)


def test_a_wrong_host_key_is_refused(two_hosts: TwoHosts, tmp_path: Path) -> None:
    alphas, _ = (two_hosts.lab.layout.directory / "known_hosts").read_text().splitlines()
    wrong = on_machine(two_hosts.source, "/tmp/wrong_known_hosts")
    wrong.write_text(alphas.replace("alpha", "beta", 1) + "\n")
    option = "UserKnownHostsFile=/tmp/wrong_known_hosts"
    command = ("ssh", "-F", two_hosts.lab.ssh_config, "-o", option, "beta", "true")
    done = two_hosts.source.run(*command, check=False)
    wrong.unlink()
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


def test_the_users_own_ssh_files_are_neither_read_nor_written(two_hosts: TwoHosts) -> None:
    """Every file that ssh opens on the way lies in the lab or belongs to the system."""
    command = ("ssh", "-v", "-F", two_hosts.lab.ssh_config, "beta", "echo $HOME; ls -A ~")
    done = two_hosts.source.run(*command)
    home = Path("/root/.ssh")
    assert str(home) not in done.stderr
    assert done.stdout == f"{two_hosts.destination.node.directory}/home\n"


def test_the_bandwidth_is_what_was_asked_for(two_hosts: TwoHosts) -> None:
    source, destination = two_hosts.source, two_hosts.destination
    two_hosts.lab.shape("80mbit")
    try:
        ways = (source, destination), (destination, source), (source, two_hosts.client)
        found = [max(throughput(*way, 5 * MIB) for _ in range(3)) for way in ways]
    finally:
        two_hosts.lab.shape("off")
    # The best of each: what else runs on this machine takes its part of the others.
    assert [7e6 < each < 10.5e6 for each in found] == [True] * 3, found
    assert max(throughput(source, destination, 64 * MIB) for _ in range(3)) > 50e6


def test_the_client_reaches_an_address_that_moves_between_the_bridges(
    two_hosts: TwoHosts,
) -> None:
    for host in (two_hosts.source, two_hosts.destination):
        script = (
            "ip netns add c && ip link add mv0 type veth peer name eth0 netns c && "
            f"ip link set mv0 master {host.bridge} up && "
            "ip -n c link set eth0 address 02:00:00:00:09:09 up && "
            "ip -n c address add 10.77.9.9/16 dev eth0 && "
            "ip netns exec c /usr/bin/python3 -I -S -c "
            '\'import socket; s = socket.create_server(("", 7001)); print("up", flush=True); '
            's.accept()[0].sendall(open("/proc/sys/kernel/hostname").read().encode())\''
        )
        serving = host.popen("sh", "-c", script, stdout=subprocess.PIPE)
        with serving:
            assert serving.stdout is not None
            assert serving.stdout.readline() == "up\n"
            ask = 'import socket; print(socket.create_connection(("10.77.9.9", 7001), 5).recv(99))'
            assert host.name in two_hosts.client.run(*python(ask)).stdout
        host.run("ip", "netns", "delete", "c")


def test_unknown_hosts_and_labs_are_named_with_the_remedy(lab: labs.Lab) -> None:
    with pytest.raises(NoSuchHost, match="it has alpha, beta, client"):
        lab.host("gamma")
    with pytest.raises(NoSuchLab, match="migrator lab up --name nowhere"):
        labs.load("nowhere")


def test_a_snapshot_sees_what_is_left(two_hosts: TwoHosts) -> None:
    host = two_hosts.source
    before = snapshot(host)
    host.run("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $! > /run/left")
    host.run("ip", "link", "add", "mig-left", "type", "bridge")
    host.run("mkdir", cgroups.hierarchies()[0].mount_point / "left")
    host.run("mount", "-n", "-t", "tmpfs", "left", "/srv")
    found = {line.partition(":")[0] for line in differences(before, snapshot(host))}
    host.run("umount", "-n", "/srv")
    host.run("rmdir", cgroups.hierarchies()[0].mount_point / "left")
    host.run("ip", "link", "delete", "mig-left")
    host.run("sh", "-c", "kill $(cat /run/left); rm /run/left")
    assert found >= {"+ process", "+ link", "+ cgroup", "+ file"}
    assert differences(before, snapshot(host)) == []


def test_ssh_sessions_leave_nothing_behind(two_hosts: TwoHosts) -> None:
    with nothing_left_behind(two_hosts.source, two_hosts.destination):
        two_hosts.source.run("ssh", "-F", two_hosts.lab.ssh_config, "beta", "true")


def migrator(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.prefix, "bin/migrator"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_commands_do_what_they_say(lab_name: str) -> None:
    up = migrator("lab", "up", "--name", lab_name, "--bandwidth", "100mbit")
    assert (up.returncode, f"lab {lab_name} is up: alpha, beta and client" in up.stdout) == (
        0,
        True,
    )
    again = migrator("lab", "up", "--name", lab_name)
    assert (again.returncode, "is up already" in again.stdout) == (0, True)
    status = json.loads(migrator("lab", "status", "--name", lab_name, "--json").stdout)
    assert status["bandwidth"] == "100mbit"
    assert [host["name"] for host in status["hosts"]] == ["alpha", "beta", "client"]
    ran = migrator("lab", "exec", "--name", lab_name, "beta", "--", "sh", "-c", "hostname; exit 3")
    assert (ran.stdout, ran.returncode) == ("beta\n", 3)
    assert migrator("lab", "down", "--name", lab_name).returncode == 0
    gone = migrator("lab", "status", "--name", lab_name)
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"migrator: no lab {lab_name} is up")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("up", "--name", "../x"), "invalid lab name '../x'"),
        (("up", "--bandwidth", "fast", "--name", "x"), "invalid bandwidth 'fast'"),
        (("up", "--hosts", "0", "--name", "x"), "a lab has 1 to 8 hosts, not 0"),
    ],
)
def test_bad_requests_are_refused_in_one_line(
    arguments: Callable[..., str], complaint: str
) -> None:
    done = migrator("lab", *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
