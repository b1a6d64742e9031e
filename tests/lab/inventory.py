"""Run on a host of the lab: prints all that a container or a migration could leave there, as JSON.

A script of its own, standard library only; it leaves itself out.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

DIRECTORIES = ("/run", "/tmp", "/var/tmp", "/srv", "/var/lib/migrator", "/dev/shm")
CGROUPS = "/sys/fs/cgroup"
# CRIU's cache, and the rooms of migrator's state, which stay when they are empty.
MIGRATIONS = "/run/migrator/migrations/"
ROOMS = ("/run/criu.kdat", "/run/migrator/", MIGRATIONS, f"{MIGRATIONS}.identity")
# What moves with every packet, or with time.
MOVING = re.compile(
    r"\[\d+:\d+\]|packets \d+ bytes \d+| tentative|valid_lft.*|^#.*|^\d+: ", re.MULTILINE
)


def processes() -> Iterator[str]:
    """Command line and network namespace of each process but this one."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            argv = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            netns = os.readlink(directory / "ns/net")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(directory.name) not in (os.getpid(), os.getppid()) and not _of_a_session(argv):
            yield f"{argv} {netns}"


def _of_a_session(argv: str) -> bool:
    """An sshd that is still closing a session of its own."""
    return argv.startswith("sshd: ") and "listener" not in argv


def mounts() -> Iterator[str]:
    """Point and kind of each, but not what is mounted in the machine's /tmp, below the host's own.

    Tests beside this one mount there: what they had when the host was made goes in its time.
    """
    lines = [line.partition(" - ") for line in Path("/proc/1/mountinfo").read_text().splitlines()]
    in_own = {left.split()[0] for left, _, _ in lines if left.split()[4] == "/tmp"}
    for left, _, right in lines:
        number, parent, _, _, point = left.split()[:5]
        if point.startswith("/tmp/"):
            if parent not in in_own:
                continue
            in_own.add(number)
        yield f"{point} {right.split()[0]}"


def links() -> Iterator[str]:
    for link in Path("/sys/class/net").iterdir():
        master = link / "master"
        bridge = os.path.basename(os.readlink(master)) if master.exists() else ""
        yield f"{link.name} {(link / 'operstate').read_text().strip()} {bridge}"


def said(*argv: str) -> list[str]:
    """The lines that a command prints, without what moves; none when it is not installed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [line.rstrip() for line in MOVING.sub("", done.stdout).splitlines() if line.strip()]


def files(top: str) -> Iterator[str]:
    """Every path below *top*, with the size of regular files."""
    for path, directories, names in os.walk(top):
        yield from (os.path.join(path, name) + "/" for name in directories)
        for name in names:
            full = os.path.join(path, name)
            yield f"{full} {os.path.getsize(full) if os.path.isfile(full) else ''}"


def inventory() -> dict[str, list[str]]:
    return {
        "process": sorted(processes()),
        "mount": sorted(mounts()),
        "link": sorted(links()),
        "address": said("ip", "-oneline", "address"),
        "route": said("ip", "route"),
        "packet filter": said("iptables-save") + said("nft", "list", "ruleset"),
        "network namespace": said("ip", "netns"),
        "cgroup": sorted(path for path, _, _ in os.walk(CGROUPS)),
        "file": sorted(f for top in DIRECTORIES for f in files(top) if f.split()[0] not in ROOMS),
    }


if __name__ == "__main__":
    json.dump(inventory(), sys.stdout)
