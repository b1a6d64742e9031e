"""Names of what tests make outside their temporary directories, and the broom for what was left.

A name is `mig-test-PID-...`, with the pid (in hex) of the session that made it: a session sweeps
its own at its end, and at its start those of sessions that are gone, never another's that runs.
"""

import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PREFIX = f"mig-test-{os.getpid():x}"
OWNER = re.compile(r"\bmig-test-([0-9a-f]+)")
NETNS = Path("/run/netns")


def own(name: str) -> str:
    """The name that this session gives to *name* of its own."""
    return f"{PREFIX}-{name}"


def mine(name: str) -> bool:
    found = OWNER.search(name)
    return found is not None and int(found[1], 16) == os.getpid()


def orphaned(name: str) -> bool:
    found = OWNER.search(name)
    return found is not None and not os.path.exists(f"/proc/{int(found[1], 16)}")


def sweep(ours: Callable[[str], bool]) -> None:
    """Remove every cgroup, mount, network namespace, link and directory whose name is *ours*."""
    for cgroup in cgroups(ours):
        remove_cgroup(cgroup)
    for point in reversed([p for p in mount_points() if ours(p) and not p.startswith(str(NETNS))]):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    for netns in filter(ours, os.listdir(NETNS) if NETNS.is_dir() else ()):
        subprocess.run(["ip", "netns", "delete", netns], check=False, capture_output=True)
    for link in filter(ours, os.listdir("/sys/class/net")):
        subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
    for directory in filter(ours, os.listdir(tempfile.gettempdir())):
        shutil.rmtree(Path(tempfile.gettempdir(), directory), ignore_errors=True)


def mount_points() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4].replace("\\040", " ") for line in lines]


def cgroups(ours: Callable[[str], bool]) -> list[Path]:
    """The tests' own cgroups, on top of a hierarchy or below /migrator, which comes and goes."""
    roots = [
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.partition(" - ")[2].startswith("cgroup")
    ]
    tops = [p for root in roots for top in ("*", "migrator/*") for p in glob.glob(f"{root}/{top}")]
    return [Path(p) for p in tops if ours(os.path.basename(p)) and os.path.isdir(p)]


def remove_cgroup(top: Path) -> None:
    """Kill what is left in *top* and below, frozen or not, and remove them."""
    deadline = time.monotonic() + 5
    while top.exists() and time.monotonic() < deadline:
        tree = [Path(at) for at, _, _ in os.walk(top)]
        for cgroup in tree:  # parents first: nothing thaws below a frozen one
            with suppress(OSError):  # gone: another session may sweep it too
                kill_in(cgroup)
        for cgroup in reversed(tree):
            with suppress(OSError):  # busy until the last of them has been reaped
                cgroup.rmdir()
        time.sleep(0.01)


def kill_in(cgroup: Path) -> None:
    for pid in (cgroup / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    for control, thawed in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        if (cgroup / control).exists():
            (cgroup / control).write_text(thawed)
