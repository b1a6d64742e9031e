"""Bring a lab up and down.

Nothing of it is kept by a daemon: the init processes hold the namespaces, cgroups tell which
processes belong to it, and one directory has its files. `down` needs no more than the name, so it
also removes what a killed `up` has left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from criu_rpc.logger import Logger
from migrator.lab import cgroups, network, node, record, ssh
from migrator.lab.errors import LabBroken, LabError, NoSuchHost, NoSuchLab, StepFailed
from migrator.lab.host import Host
from migrator.lab.layout import LABS, UPLINK, Layout, Node, check_name, plan
from migrator.removal import remove_tree
from runtime.rootfs import mountinfo

logger = Logger(__name__)

_PROGRAMS = ("ip", "tc", "mount", "unshare", "nsenter", "ssh-keygen")


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that is up. As a context manager it is taken down at the end."""

    layout: Layout

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(Host(n) for n in self.layout.hosts)

    @property
    def client(self) -> Host:
        return Host(self.layout.client)

    @property
    def ssh_config(self) -> Path:
        return self.layout.ssh_config

    def host(self, name: str) -> Host:
        """The host called *name*, the client host among them."""
        for host in (*self.hosts, self.client):
            if host.name == name:
                return host
        raise NoSuchHost(self.name, name, [n.name for n in self.layout.plugged])

    def shape(self, rate: str) -> None:
        """Let every host send and receive at *rate* at most: "100mbit", "1gbit", ... or "off"."""
        to_hosts = [line for n in self.layout.hosts for line in network.shape(n.port, rate)]
        _batch("tc", self.layout.switch, to_hosts)
        for host in self.layout.hosts:
            _batch("tc", host, network.shape(UPLINK, rate))
        _record_of(self.name).with_bandwidth(rate).save(self.name)

    def status(self) -> dict[str, Any]:
        """What is up, as `lab status --json` prints it."""
        return {
            "name": self.name,
            "bandwidth": _record_of(self.name).bandwidth,
            "ssh_config": str(self.ssh_config),
            "hosts": [
                {
                    "name": n.name,
                    "address": n.address,
                    "interface": n.interface,
                    "init_pid": node.init_pid(n),
                    "directory": str(n.directory),
                }
                for n in self.layout.plugged
            ],
        }

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        down(self.name)


def up(
    name: str,
    *,
    host_count: int = 2,
    bandwidth: str = network.DEFAULT_BANDWIDTH,
    owned: bool = False,
) -> Lab:
    """Bring up a lab called *name*; when that fails, nothing of it is left.

    owned: it serves this process only; the next `up` of any lab removes it when this has ended.
    Raises LabError when there is one of that name already.
    """
    layout = plan(name, host_count)
    network.rate_bits(bandwidth)
    _check_needs()
    _remove_abandoned()
    _claim(layout)
    try:
        owner = record.this_process() if owned else None
        record.Record(host_count, bandwidth, owner).save(name)
        _build(layout, bandwidth)
    except BaseException as error:
        try:
            down(name)
        except LabError as further:
            error.add_note(f"and then: {further}")
        raise
    return Lab(layout)


def load(name: str) -> Lab:
    """The lab called *name*. Raises NoSuchLab, or LabBroken when a part of it has died."""
    check_name(name)
    if not (LABS / name).exists():
        raise NoSuchLab(name)
    layout = plan(name, _record_of(name).host_count)
    if dead := [n.name for n in layout.nodes if node.init_pid(n) is None]:
        raise LabBroken(name, f"{', '.join(dead)} not running")
    return Lab(layout)


def names() -> list[str]:
    """Every lab on this machine, whole or broken."""
    with suppress(FileNotFoundError):
        return sorted(os.listdir(LABS))
    return []


def down(name: str) -> None:
    """Remove the lab called *name*: processes, namespaces, cgroups, files, whatever is left of it.

    Raises NoSuchLab when there is nothing, LabError when something of it will not go.
    """
    check_name(name)
    directory, cgroup = LABS / name, f"migrator-lab-{name}"
    if not directory.exists() and not cgroups.exists(cgroup):
        raise NoSuchLab(name)
    cgroups.kill_all(cgroup)
    cgroups.remove(cgroup)
    _refuse_mounts_below(directory)
    remove_tree(directory)
    if directory.exists():
        raise LabError(f"{directory} cannot be removed: see what in it is in use or immutable")
    with suppress(OSError):
        LABS.rmdir()
        node.MOUNT_POINT_MADE.rmdir()


def _remove_abandoned() -> None:
    """Labs of tests and stories that were killed; another `up` may be removing them as well."""
    for name in names():
        if (left := record.load(name)) is not None and left.abandoned:
            logger.info("removing lab %s, whose owner has died", name)
            with suppress(NoSuchLab, FileNotFoundError):
                down(name)


def _claim(layout: Layout) -> None:
    while True:
        LABS.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return layout.directory.mkdir(mode=0o700)
        except FileNotFoundError:  # `down` of the only other lab has removed LABS meanwhile
            continue
        except FileExistsError:
            load(layout.name)
            raise LabError(f"lab {layout.name} is up already: see `migrator lab status`") from None


def _build(layout: Layout, bandwidth: str) -> None:
    """Start every node, then connect them, then let them in by SSH."""
    host_names = {n.address: n.name for n in layout.plugged}
    with ExitStack() as answers:
        started = [(n, answers.enter_context(node.start(n, host_names))) for n in layout.nodes]
        ssh.write_files(layout, {n.name: node.environment(n) for n in layout.hosts})
        for n, answer in started:
            node.wait_ready(n, answer)
    pids = {n.name: node.init_pid(n) for n in layout.nodes}
    _batch("ip", layout.switch, network.switch_commands(layout, pids))
    for n in layout.plugged:
        _batch("ip", n, network.node_commands(n))
    Lab(layout).shape(bandwidth)
    for n in layout.hosts:
        Host(n).run(ssh.find_sshd(), "-f", ssh.sshd_config(n))


def _batch(program: str, where: Node, lines: Sequence[str]) -> None:
    """Let ip or tc carry out *lines* in the network of a node."""
    pid = node.init_pid(where)
    if pid is None:
        raise StepFailed(f"set up the network of {where.name}", "its init has died")
    argv = ["nsenter", "--target", str(pid), "--net", program, "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().replace("\n", "; ")
        raise StepFailed(f"set up the network of {where.name}", f"{program}: {said}")


def _check_needs() -> None:
    if os.geteuid() != 0:
        raise LabError("a lab needs root: namespaces, cgroups and network interfaces are made")
    missing = [p for p in _PROGRAMS if shutil.which(p) is None]
    if missing:
        raise LabError(
            f"not installed: {', '.join(missing)} (`make setup` installs what a lab needs)"
        )
    ssh.find_sshd()


def _record_of(name: str) -> record.Record:
    found = record.load(name)
    if found is None:
        raise LabBroken(name, "it never came up completely")
    return found


def _refuse_mounts_below(directory: Path) -> None:
    """Everything is mounted in the nodes' namespaces; were it not, we should delete too much."""
    for info in mountinfo.of_thread():
        if Path(info.point).is_relative_to(directory):
            remedy = "unmount it, then take the lab down again"
            raise LabError(f"{info.point} is still mounted: {remedy}")
