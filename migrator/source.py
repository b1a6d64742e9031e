"""The container at its source during a migration: what is done to it, and the undo of each."""

from __future__ import annotations

import logging
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from criu_rpc import Criu, CriuDied, DumpStats, Handler, find_criu
from migrator import images, processes
from migrator.plan import Plan
from runtime import Container, NotRunning, Status
from runtime.checkpoint import CheckpointOptions, checkpoint
from runtime.network import announce, set_host_ends

logger = logging.getLogger(__name__)


class Source:
    """One running container that is to leave. Closed with `close`, whatever became of it."""

    def __init__(self, plan: Plan) -> None:
        """Load it; NotRunning, NoSuchContainer say why it cannot be migrated."""
        self.plan = plan
        self.container = Container.load(plan.root, plan.container)
        if (status := self.container.status()) is not Status.RUNNING:
            raise NotRunning(plan.container, status)
        self.criu = Criu.start(find_criu(plan.criu))
        self.images_dir: Path | None = None

    def probe(self) -> None:
        """Let CRIU look at the kernel now: not under the freeze."""
        self.criu.require()
        self.criu.features()

    def criu_identity(self) -> list[int]:
        """Pid and start time of our criu."""
        return processes.identity(self.criu.pid)

    def make_images_dir(self, memory_bytes: int) -> Path:
        self.images_dir = images.make_images_dir(self.plan.container, memory_bytes)
        return self.images_dir

    def dump(self, on_notify: Handler) -> DumpStats:
        """Dump it, held and refused by *on_notify*; when it returns the container is dead."""
        assert self.images_dir is not None
        options = CheckpointOptions(
            image_path=self.images_dir,
            tcp_established=True,
            file_locks=self.plan.file_locks,
            ext_unix_sk=self.plan.ext_unix_sk,
            link_remap=self.plan.link_remap,
        )
        return checkpoint(
            self.container, options, on_notify=on_notify, criu=self.criu, destroy=False
        )

    def ensure_criu_holds(self) -> None:
        """Raise CriuDied when CRIU is gone: the container then runs on, its dump is worthless."""
        if not self.criu.alive():
            raise CriuDied("DUMP", None, self.criu.stderr())

    def mapped_files(self) -> list[str]:
        """Files below the rootfs that some process maps shared and writable, relative to it.

        The kernel takes note of a store into such a mapping when a page turns dirty, not again
        until it was written back - and on a tmpfs never: their times do not tell whether they
        changed.
        """
        found = set()
        for pid in self.container.processes():
            with suppress(OSError):
                found |= _shared_writable(pid)
        rootfs = self.container.state.rootfs
        return sorted(name for name in found if (rootfs / name).is_file())

    def freeze(self) -> None:
        """Freeze its cgroup: it then stays still whatever becomes of CRIU or of us."""
        self.container.cgroup.freeze()

    def thaw(self) -> None:
        self.container.cgroup.thaw()

    def isolate(self) -> None:
        """Take its host ends down: not even the kernel answers for it here any more."""
        set_host_ends(self.container.state.networks, up=False)

    def reconnect(self) -> None:
        """Host ends up again."""
        set_host_ends(self.container.state.networks, up=True)

    def announce(self) -> None:
        """Tell the switches that its addresses are here."""
        announce(self.container.netns_path)

    def end(self) -> None:
        """Kill it, frozen as it is: it never runs another instruction."""
        self.container.cgroup.kill_all()
        self.thaw()

    def forget(self) -> None:
        """Remove what is left of it on this host; the bundle stays."""
        self.container.delete(force=True)

    def close(self) -> None:
        """End our criu and remove the images."""
        self.criu.close()
        if self.images_dir is not None:
            shutil.rmtree(self.images_dir, ignore_errors=True)


_MAPPING = re.compile(rb"^\S+ rw.s \S+ \S+ [1-9]\d*\s+/(.*)$")


def _shared_writable(pid: int) -> set[str]:
    """Paths (relative to the container's root) of proc_pid_maps(5) lines with rw.s and a file."""
    with open(f"/proc/{pid}/maps", "rb") as maps:
        found = (_MAPPING.match(line.rstrip(b"\n")) for line in maps)
        return {
            os.fsdecode(match[1])
            for match in found
            if match and not match[1].endswith(b" (deleted)")
        }
