"""Whether a container is frozen, read from its saved cgroup paths alone.

Apart from the managers so that deriving a container's status imports nothing else of this package.
Kernel documentation: cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst "cgroup.events".
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def is_frozen(paths: Mapping[str, str]) -> bool:
    """Whether the cgroup of *paths* is frozen or freezing; False when it is not there.

    paths: as in State.cgroup_paths.
    """
    with suppress(FileNotFoundError):
        if "freezer" in paths:
            return v1_state(Path(paths["freezer"])) != "THAWED"
        if "" in paths:
            return v2_frozen(Path(paths[""]))
    return False


def v1_state(directory: Path) -> str:
    """THAWED, FREEZING or FROZEN."""
    return (directory / "freezer.state").read_text().strip()


def v2_frozen(directory: Path) -> bool:
    """Whether every process of the cgroup is stopped in the freezer."""
    return "frozen 1" in (directory / "cgroup.events").read_text().splitlines()
