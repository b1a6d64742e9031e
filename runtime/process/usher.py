"""Opens for a container's init what its root user may not go to: a helper process with our powers.

In a user namespace root is an ordinary user of the host, and a source of a bind mount may lie below
a directory that only others may enter; the ids of a mount can be mapped by the host's root alone.
So a process is forked off before, that stays outside, follows into the mount namespace only, and
opens what the plan names, by its number. It has ended before a program of the container runs.
user_namespaces(7), setns(2).
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_SEQPACKET, socketpair

from runtime.constants import CLONE_NEWNS, CLONE_PARENT
from runtime.process import passing
from runtime.rootfs.sources import OWN_USER_NAMESPACE, Sources
from runtime.syscalls import clone3, close_all_from, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.process.plan import RootfsPlan

_NAMESPACES = ("mnt", "user")
_ROOTFS = b"rootfs"
_FAILED = b"failed\0"
_MAX_BYTES = 64 * 1024


def fork(plan: RootfsPlan, idmaps: dict[int, int]) -> tuple[int, Usher]:
    """Start the helper as a child of our parent; returns its pid, and what init asks it with."""
    ours, theirs = (end.detach() for end in socketpair(AF_UNIX, SOCK_SEQPACKET))
    pid = clone3(CLONE_PARENT)
    if pid == 0:
        try:
            # Our end of the conversation with the runtime too: that ends when init does.
            close_all_from(3, (theirs, *idmaps.values()))
            _serve(theirs, plan, idmaps)
        finally:
            os._exit(0)
    os.close(theirs)
    return pid, Usher(ours)


def _serve(fd: int, plan: RootfsPlan, idmaps: dict[int, int]) -> None:
    """Answer until init hangs up."""
    _, mount_namespace_fd = passing.receive(fd, _MAX_BYTES)
    _, user_namespace_fd = passing.receive(fd, _MAX_BYTES)
    assert mount_namespace_fd is not None
    assert user_namespace_fd is not None
    setns(mount_namespace_fd, CLONE_NEWNS)
    sources = Sources(plan, {**idmaps, OWN_USER_NAMESPACE: user_namespace_fd})
    while request := passing.receive(fd, _MAX_BYTES)[0]:
        try:
            source_fd = sources.rootfs() if request == _ROOTFS else sources.clone(int(request))
        except OSError as exc:
            text = "\0".join((str(exc.errno), exc.strerror or "", os.fsdecode(exc.filename or "")))
            os.write(fd, _FAILED + os.fsencode(text))
        else:
            passing.send(fd, request, source_fd)
            os.close(source_fd)


class Usher:
    """Init's end: as Sources, but opened by the helper."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def follow(self, proc_fd: int) -> None:
        """Have the helper come into our mount namespace. proc_fd: the host's /proc."""
        for name in _NAMESPACES:
            namespace_fd = os.open(f"self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
            passing.send(self._fd, name.encode(), namespace_fd)
            os.close(namespace_fd)

    def rootfs(self) -> int:
        """The directory of the rootfs (O_PATH)."""
        return self._ask(_ROOTFS)

    def clone(self, number: int) -> int:
        """A detached clone of the source of mount *number*; OSError has its path."""
        return self._ask(str(number).encode())

    def close(self) -> None:
        """Let the helper end."""
        os.close(self._fd)

    def _ask(self, request: bytes) -> int:
        os.write(self._fd, request)
        answer, source_fd = passing.receive(self._fd, _MAX_BYTES)
        if source_fd is not None:
            return source_fd
        if not answer.startswith(_FAILED):
            raise OSError("the helper that opens what is mounted has ended")
        number, why, path = os.fsdecode(answer.removeprefix(_FAILED)).split("\0", 2)
        raise OSError(int(number), why, path or None)
