"""What to write to a control file so that it is again as it reads now: pure.

Most files take what they show. Those with a line for each device, and those that show more than
they take, do not.
Kernel documentation: cgroup-v1/{memory,blkio-controller,rdma}.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import re

_DEVICE = re.compile(r"\d+:\d+")
# What takes the limits of one device away, where the file has no line of it.
_NO_LIMITS = {
    "io.max": "rbps=max wbps=max riops=max wiops=max",
    "io.weight": "default",
    "io.bfq.weight": "default",
    "rdma.max": "hca_handle=max hca_object=max",
}
_KEYED = ("rdma.max", "net_prio.ifpriomap")


def former_value(name: str, content: str, new: str) -> str:
    """What brings the file *name* back to *content*, when *new* has been written to it."""
    if name == "memory.oom_control":
        return content.split()[1]  # oom_kill_disable 0, and lines that only tell
    key = new.partition(" ")[0]
    if _DEVICE.fullmatch(key) or name in _KEYED:
        return _of_device(name, key, content)
    # An empty write would be none at all. Weights show their default in the first line.
    return content.partition("\n")[0] or "\n"


def _of_device(name: str, key: str, content: str) -> str:
    for line in content.splitlines():
        if line.partition(" ")[0] == key:
            return line
    return f"{key} {_NO_LIMITS.get(name, '0')}"
