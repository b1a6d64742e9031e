"""The container's files: moved by rsync while it runs, and again under the freeze.

rsync(1) does the comparing; its two halves talk through our own stream instead of a second ssh.
Whatever rsync would wrongly take for unchanged is named to it: nanosecond times are compared, and
files that the container maps shared and writable, whose times the kernel need not touch at a store,
are compared by content. The rootfs is hostile, and its container may exchange a directory for a
symbolic link to the host's files at any moment: rsync reads it over a mount on which the kernel
follows none. At the destination it starts inside the new rootfs.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from criu_rpc.logger import Logger
from migrator.bandwidth import Limiter
from migrator.dataplane import pump
from migrator.errors import MigrationError, ProtocolError
from runtime.constants import AT_FDCWD, MOUNT_ATTR_NOSYMFOLLOW
from runtime.syscalls import mount_setattr, open_tree

logger = Logger(__name__)

# The stream is rsync's stdin at first and fd 7 from then on. The "remote shell" sends the far
# half's command line as one line, then only copies; it must end when the far half does, since rsync
# waits for it.
_NEAR = 'exec 7<&0 </dev/null; exec rsync "$@"'
_REMOTE_SHELL = "sh -c 'shift; echo \"$@\" >&7; exec 3<&0; cat <&3 >&7 & exec cat <&7' sh"
_OPTIONS = (
    "--archive", "--hard-links", "--acls", "--xattrs", "--numeric-ids", "--sparse",
    "--modify-window=-1", "--one-file-system", "--stats",
)  # fmt: skip
# Directories of an instant, which CRIU makes in the container's mount namespace to see a tmpfs that
# others are mounted on (criu/mount.c: open_mountpoint): the only thing that moves under the freeze.
_OF_CRIU = ("--exclude=/tmp/cr-tmpfs.??????", "--exclude=/cr-tmpfs.??????")
# what rsync 3.2 and newer asks of its far half for these options
_FAR_ARGUMENT = re.compile(
    r"-[A-Za-z]+(\.[A-Za-z]*)?|-@-1|--(delete(-before|-during|-after|-delay)?|numeric-ids|modify-window=-1"
    r"|from0|no-r|no-relative|ignore-times|sparse|stats|dirs|files-from=-)"
)
# rsync(1), EXIT VALUES
_PARTIAL = 23
_VANISHED = 24
_GONE = re.compile(r"rsync: \[sender\] .*: No such file or directory \(2\)")
_MEANINGS = {
    11: "a file could not be written at the destination: is its disk full?",
    12: "the connection to the destination broke",
}
_SENT = re.compile(r"Total bytes sent: ([\d,.]+)")


def push(
    rootfs: Path,
    stream: ssl.SSLSocket,
    *,
    only: Iterable[str] = (),
    frozen: bool = True,
    limiter: Limiter | None = None,
) -> int:
    """Make the far rootfs equal to *rootfs*; returns the bytes sent.

    frozen: nothing writes there meanwhile; without it files may come and go under our eyes.
    only: paths below it to send whatever their size and times, in place of the whole tree. Raises
    MigrationError with rsync's own last line; the far side then holds a part, which its owner
    discards.
    """
    names = sorted(only)
    with ExitStack() as stack:
        fds = [stack.enter_context(_open(_linkless(rootfs)))]
        if names:
            named_fd = _fed("\0".join(names).encode("utf-8", "surrogateescape"))
            fds.append(stack.enter_context(_open(named_fd)))
            selection = [f"--files-from=/dev/fd/{fds[1]}", "--from0", "--ignore-times"]
        else:
            selection = ["--delete", *(_OF_CRIU if frozen else ())]
        tree = f"/proc/self/fd/{fds[0]}/"
        arguments = [*_OPTIONS, *selection, "-e", _REMOTE_SHELL, tree, "far:."]
        status, output = _run_near(arguments, stream, fds, limiter)
    output = output.replace(tree, f"{rootfs}/")
    if not frozen and (status == _VANISHED or (status == _PARTIAL and only_vanished(output))):
        status = 0  # what came and went while it runs is looked at again
    if status != 0:
        why = _last_line(output) or _MEANINGS.get(status, f"exit status {status}")
        raise MigrationError(f"rsync of {rootfs} failed: {why}")
    sent = _SENT.search(output)
    return int(re.sub(r"\D", "", sent[1])) if sent else 0


def only_vanished(output: str) -> bool:
    """Whether what rsync complains of is only files that have gone while it looked at them.

    One that goes between its listing and its attributes is an error to rsync (xattrs.c:
    get_xattr_names), not a file that has vanished.
    """
    complaints = [line for line in output.splitlines() if line.startswith("rsync: ")]
    return bool(complaints) and all(map(_GONE.fullmatch, complaints))


def serve(stream: ssl.SSLSocket, rootfs: Path) -> None:
    """The far half: run the rsync that the source asks for inside *rootfs*, carry its bytes.

    Only what `push` asks for is run: a receiver that writes below its own directory. A stream that
    ends at once asks for nothing.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte and not line:
            return  # there was nothing to do for it
        if not byte or len(line) > 4096:
            raise ProtocolError("the source", "no rsync command line")
        line += byte
    argv = line.decode("utf-8", "replace").split()
    if argv[:2] != ["rsync", "--server"] or argv[-2:] != [".", "."]:
        raise ProtocolError("the source", f"an rsync command line {' '.join(argv)!r}")
    for argument in argv[2:-2]:
        if not _FAR_ARGUMENT.fullmatch(argument):
            raise ProtocolError("the source", f"an rsync argument {argument!r}")
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            far = subprocess.Popen(
                argv, stdin=theirs.fileno(), stdout=theirs.fileno(), cwd=rootfs, env=_environment()
            )
        logger.debug("started %s in %s as pid %d", " ".join(argv), rootfs, far.pid)
        try:
            pump(stream, ours.fileno(), ours.fileno())
        except BaseException:
            far.kill()
            raise
        finally:
            logger.debug("rsync %d ended with status %d", far.pid, far.wait())


def size_bytes(rootfs: Path) -> int:
    """What the tree takes on disk, one file system, hard links once; files come and go in it."""
    total, seen, pending = 0, set(), [str(rootfs)]
    device = rootfs.stat().st_dev
    while pending:
        for entry in _entries(pending.pop()):
            with suppress(FileNotFoundError):
                info = entry.stat(follow_symlinks=False)
                if info.st_dev != device or (info.st_nlink > 1 and info.st_ino in seen):
                    continue
                seen.add(info.st_ino)
                total += info.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return total


def _entries(directory: str) -> list[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        return list(entries)
    return []


def _linkless(rootfs: Path) -> int:
    """The tree as a mount of its own, attached nowhere, that follows no symbolic link: its fd.

    mount_setattr(2), MOUNT_ATTR_NOSYMFOLLOW: Linux 5.14. Who may not mount is shown by no link what
    he may not read. Raises OSError.
    """
    try:
        tree_fd = open_tree(AT_FDCWD, str(rootfs))
    except PermissionError:
        return os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount_setattr(tree_fd, attr_set=MOUNT_ATTR_NOSYMFOLLOW)
    except BaseException:
        os.close(tree_fd)
        raise
    return tree_fd


@contextmanager
def _open(fd: int) -> Iterator[int]:
    """*fd*, ours from now on, by a number that the shells at either end do not use."""
    try:
        high_fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    finally:
        os.close(fd)
    try:
        yield high_fd
    finally:
        os.close(high_fd)


def _fed(data: bytes) -> int:
    """The reading end of a pipe that *data* comes out of: no file that a crash could leave."""
    read_fd, write_fd = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), open(write_fd, "wb") as pipe:
            pipe.write(data)

    threading.Thread(target=feed, name="names", daemon=True).start()
    return read_fd


def _run_near(
    arguments: list[str], stream: ssl.SSLSocket, keep_fds: list[int], limiter: Limiter | None
) -> tuple[int, str]:
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as output:
        with theirs:
            near = subprocess.Popen(
                ["sh", "-c", _NEAR, "rsync", *arguments],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                env=_environment(),
                pass_fds=keep_fds,
            )
        logger.debug("started rsync %s as pid %d", arguments, near.pid)
        try:
            pump(stream, ours.fileno(), ours.fileno(), limiter)
        except BaseException:
            near.kill()
            raise
        finally:
            status = near.wait()
        output.seek(0)
        return status, output.read().decode(errors="replace")


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith("rsync")]
    return lines[0] if lines else ""
