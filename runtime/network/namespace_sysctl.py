"""The kernel parameters that a network namespace keeps for itself: /proc/sys/net, as it shows them.

Documentation/networking/ip-sysctl.rst. Which directory /proc/sys/net is depends on the namespace of
the thread that opens it, not on the mount: to be called within `in_netns`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

_ROOT = "/proc/sys/net"
_READ_AND_WRITE = 0o600
_VALUE_BYTES = 4096
# Writing conf/all, or ip_forward, changes others: until nothing differs any more.
_PASSES = 4


def names() -> list[str]:
    """Every parameter that can be read and written, as a path below /proc/sys/net."""
    found = []
    for directory, _, files in os.walk(_ROOT):
        for file in files:
            path = os.path.join(directory, file)
            if os.stat(path).st_mode & _READ_AND_WRITE == _READ_AND_WRITE:
                found.append(os.path.relpath(path, _ROOT))
    return sorted(found)


def read(wanted: Iterable[str]) -> dict[str, str]:
    """Their values; those that are not there, or were never set, are left out."""
    values = {}
    for name in wanted:
        try:
            fd = os.open(f"{_ROOT}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            values[name] = os.read(fd, _VALUE_BYTES).decode("ascii", "replace").strip()
        except OSError:
            pass  # stable_secret before it has a value: EIO
        finally:
            os.close(fd)
    return values


def write(wanted: Mapping[str, str]) -> None:
    """Give them those values, as far as this kernel has and takes them."""
    for _ in range(_PASSES):
        now = read(wanted)
        differing = [name for name, value in now.items() if value != wanted[name]]
        for name in differing:
            _write(name, wanted[name])
        if not differing:
            return


def _write(name: str, value: str) -> None:
    try:
        fd = os.open(f"{_ROOT}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, value.encode() + b"\n")
    except OSError:
        pass  # whoever compares finds it
    finally:
        os.close(fd)
