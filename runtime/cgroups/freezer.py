"""Whether a container is frozen, read from its saved cgroup paths alone.

Apart from the managers so that deriving a container's status imports nothing else of this package.
Kernel documentation: cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst "cgroup.events".
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

V1_FILE = "freezer.state"
V2_FILE = "cgroup.events"


def is_frozen(paths: Mapping[str, str]) -> bool:
    """Whether the cgroup of *paths* is frozen or freezing; False when it is not there.

    paths: as in State.cgroup_paths.
    """
    with suppress(OSError):  # ENOENT, or ENODEV when it is just being removed
        if "freezer" in paths:
            return Path(paths["freezer"], V1_FILE).read_text().strip() != "THAWED"
        if "" in paths:
            return says_frozen(Path(paths[""], V2_FILE).read_text())
    return False


def says_frozen(events: str) -> bool:
    """Whether *events*, a cgroup.events, says that every process is stopped in the freezer."""
    return "frozen 1" in events.splitlines()
