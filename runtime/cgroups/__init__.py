"""The cgroups of a container: made, limited, frozen, killed and removed, on v1, hybrid and v2.

Everything is done through the mounted cgroup filesystem (cgroups(7)); paths are as this process
sees them, so that it works the same inside a cgroup namespace.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.cgroups.base import CgroupManager
    from runtime.cgroups.detect import (
        cgroup_version,
        manager,
        of_state,
        resolve_path,
        unit_paths,
    )
    from runtime.cgroups.freezer import is_frozen

__all__ = [
    "CgroupManager",
    "cgroup_version",
    "is_frozen",
    "manager",
    "of_state",
    "resolve_path",
    "unit_paths",
]

# Loaded on first use: whether a container is frozen is asked by commands that need nothing else.
_MODULES = {
    "CgroupManager": "base",
    "cgroup_version": "detect",
    "is_frozen": "freezer",
    "manager": "detect",
    "of_state": "detect",
    "resolve_path": "detect",
    "unit_paths": "detect",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
