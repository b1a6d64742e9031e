"""Kernel parameters of a container: which file of /proc/sys each is, and whose namespace it needs.

Only parameters that a namespace of the container keeps apart may be set: all others would change
the host. sysctl(8), proc_sys(5), ipc_namespaces(7), OCI runtime-spec config-linux.md "Sysctl".
"""

from __future__ import annotations

_IPC = frozenset(
    ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def file_name(name: str) -> str:
    """The file below /proc/sys of *name*, given with dots or with slashes between its parts.

    Whichever separator comes first is the separator; the other then stands for itself:
    net.ipv4.conf.eth0/7.forwarding and net/ipv4/conf/eth0.7/forwarding are the same file.
    """
    first = next((char for char in name if char in "./"), "/")
    return name if first == "/" else name.translate(str.maketrans("./", "/."))


def namespace_of(name: str) -> str | None:
    """The type of the namespace that keeps *name* apart, None when nothing does."""
    match file_name(name).split("/"):
        case ["net", _, *_]:
            return "network"
        case ["fs", "mqueue", _]:
            return "ipc"
        case ["kernel", "domainname"]:
            return "uts"
        case ["kernel", each] if each in _IPC:
            return "ipc"
    return None


def fault(name: str, namespaces: frozenset[str]) -> str | None:
    """Why *name* cannot be set in a container that has *namespaces*, None when it can."""
    if any(part in ("", ".", "..") for part in file_name(name).split("/")):
        return "is not the name of a kernel parameter"
    if file_name(name) == "kernel/hostname":
        return "use the field hostname for it"
    needed = namespace_of(name)
    if needed is None:
        return "would change the host: no namespace keeps it apart"
    if needed not in namespaces:
        return f"would change the host: the container has no {needed} namespace"
    return None
