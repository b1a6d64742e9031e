"""Process 1 of a node: makes the node's own view of the machine, then reaps until it is killed.

Run by lab.py as a script below unshare(1), with the path of a node.json; imports the standard
library only, for it stays in memory as long as the lab. When it ends, the kernel ends everything
that runs in the node (pid_namespaces(7)) and with that every mount, interface and socket.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

READY = b"ready\n"
PURE_V2 = "/sys/fs/cgroup"


def main(node_file: str) -> None:
    """Set up, say so on standard output, reap."""
    node = json.loads(Path(node_file).read_text())
    identity = _identity_outside()
    socket.sethostname(node["name"])
    _mount_sys(node)
    _mount_own_kernel_views()
    _mount_own_directories(node)
    _join_leaf(node)
    _let_bridges_alone()
    Path(node["identity"]).write_text(json.dumps(identity))
    os.write(1, READY)
    os.dup2(2, 1)
    _reap_forever()


def _identity_outside() -> dict[str, int]:
    """Our process id and start time as the machine sees them: /proc is still the machine's."""
    stat = Path("/proc/self/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return {"pid": int(stat.split(maxsplit=1)[0]), "start_time": int(fields[19])}


def _mount_sys(node: dict[str, Any]) -> None:
    """A sysfs that shows the node's network, with the node's subtree of every cgroup hierarchy.

    It is put together aside and then moved over /sys, for it takes the cgroups from the old one.
    """
    new = node["new_sys"]
    _mount("-t", "sysfs", "mig-sys", new)
    if PURE_V2 not in node["hierarchies"]:
        _mount("-t", "tmpfs", "-o", "mode=755", "mig-cgroup", f"{new}/fs/cgroup")
        _copy_symlinks(Path("/sys/fs/cgroup"), Path(f"{new}/fs/cgroup"))
    for mount_point in node["hierarchies"]:
        below_sys = mount_point.removeprefix("/sys/")
        aside = f"{new}/{below_sys}" if below_sys != mount_point else mount_point
        os.makedirs(aside, exist_ok=True)
        _mount("--bind", f"{mount_point}/{node['cgroup']}", aside)
    _unmount("/sys")
    _mount("--move", new, "/sys")


def _copy_symlinks(old: Path, new: Path) -> None:
    """`cpu -> cpu,cpuacct` and the like, where systemd mounts controllers together."""
    for path in old.iterdir():
        if path.is_symlink():
            (new / path.name).symlink_to(os.readlink(path))


def _mount_own_kernel_views() -> None:
    for hidden in ("/dev/pts", "/dev/shm", "/proc"):
        _unmount(hidden)
    _mount("-t", "proc", "mig-proc", "/proc")
    _mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620", "mig-pts", "/dev/pts")
    _mount("-t", "tmpfs", "-o", "mode=1777", "mig-shm", "/dev/shm")


def _mount_own_directories(node: dict[str, Any]) -> None:
    """Put the node's own directories over the machine's; what must stay visible is put into them.

    /run is a tmpfs, as on a real host: CRIU caches its probing of the kernel only there.
    """
    _mount("-t", "tmpfs", "-o", "mode=755", "mig-run", node["own"]["/run"])
    for name, mode in (("lock", 0o1777), ("sshd", 0o755)):
        Path(node["own"]["/run"], name).mkdir()
        Path(node["own"]["/run"], name).chmod(mode)
    for path, source in node["own"].items():
        for kept in node["keep"]:
            if Path(kept).is_relative_to(path):
                inside = Path(source, Path(kept).relative_to(path))
                inside.mkdir(parents=True, exist_ok=True)
                _mount("--rbind", kept, str(inside))
        _mount("--rbind", source, path)


def _join_leaf(node: dict[str, Any]) -> None:
    for mount_point in node["hierarchies"]:
        Path(mount_point, node["leaf"], "cgroup.procs").write_text("0")


def _let_bridges_alone() -> None:
    """Frames that a bridge forwards are none of the node's packet filter's business."""
    for file in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        file.write_text("0")


def _mount(*arguments: str) -> None:
    _do("mount", "-n", *arguments)


def _unmount(path: str) -> None:
    """Take away all that the machine has mounted there; only this namespace notices."""
    while os.path.ismount(path):
        _do("umount", "-n", "--recursive", "--lazy", path)


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")


def _reap_forever() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        signal.sigwait({signal.SIGCHLD})


if __name__ == "__main__":
    main(sys.argv[1])
