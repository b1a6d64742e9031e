"""The container at its source during a migration: what is done to it, and the undo of each."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from criu_rpc import Criu, CriuDied, DumpStats, Handler, find_criu
from criu_rpc.logger import Logger
from migrator import images, processes
from migrator.plan import Plan
from runtime import Container, ContainerError, NotRunning, Paused, Status
from runtime.cgroups.throttle import CpuThrottle
from runtime.checkpoint.bare_dump import BareCriu
from runtime.checkpoint.descriptors import Descriptor, Kind
from runtime.checkpoint.dump import Checkpoint, unlock
from runtime.checkpoint.options import CheckpointOptions
from runtime.checkpoint.restore_options import RestoreOptions
from runtime.errors import CgroupError
from runtime.network import Networks, announce, isolate, reconnect
from runtime.network.held import Held, to_wire
from runtime.processes import strangers
from runtime.rootfs.resolve import open_in_root

logger = Logger(__name__)

# A file that has no name any more is among the images: it has to move, however large it is.
_GHOST_LIMIT_BYTES = 1 << 30
_DELETED = " (deleted)"
# What never had a name, but looks as if (proc_pid_maps(5))
_NAMELESS = re.compile(
    rb" /(?!(?:dev/zero|memfd:.*|SYSV[0-9a-f]+|anon_hugepage) ).* \(deleted\)$", re.M
)


class Source:
    """One running container that is to leave. Closed with `close`, whatever became of it."""

    def __init__(self, plan: Plan) -> None:
        """Load it; NotRunning, Paused, NoSuchContainer say why it cannot be migrated."""
        self.plan = plan
        self.container = Container.load(plan.root, plan.container)
        self.ensure_it_runs()
        self.criu = Criu.start(find_criu(plan.criu))
        self._bare: BareCriu | None = None
        self.images_dir: Path | None = None
        self._checkpoint: Checkpoint | None = None
        self._throttle: CpuThrottle | None = None
        self._held: Held | None = None
        #: whether a file is open or mapped by a name that it has lost, and has others left: CRIU
        #: gives it one while it dumps, beside the lost one (criu/files-reg.c: link_remap)
        self.has_lost_names = False

    @property
    def bare(self) -> BareCriu:
        """The criu that dumps it."""
        assert self._bare is not None, "arm comes first"
        return self._bare

    def ensure_it_runs(self) -> None:
        """Raise NotRunning or Paused unless it does: what is paused here would run there."""
        status = self.container.status()
        if status is Status.PAUSED:
            raise Paused(self.container.id)
        if status is not Status.RUNNING:
            raise NotRunning(self.container.id, status)

    def fate(self) -> str:
        """How it is when nothing came of the migration, in words."""
        words = {Status.RUNNING: "runs on here as before", Status.PAUSED: "is paused here"}
        return words.get(self.container.status(), "has ended here")

    def probe(self) -> None:
        """Let CRIU look at the kernel now: not under the freeze."""
        self.criu.require()
        self.criu.features()

    def criu_identity(self) -> list[int]:
        """Pid and start time of the criu that dumps it."""
        return processes.identity(self.bare.criu.pid)

    def arm(self, *, own_network: bool = True) -> None:
        """Plan the dump anew, and start the criu for it where it is to be; also a second time."""
        self.plan_dump(own_network=own_network)
        assert self._checkpoint is not None
        if self._bare is not None:
            self._bare.close()
        if self._held is not None:
            self._held.close()
        self._bare = BareCriu.start(self.plan.criu, within=self._checkpoint.place())
        state = self.container.state
        try:
            self._held = Held(Networks.of(state), self.container.id, state.init_pid)
        except (OSError, ContainerError) as error:  # its clients will send once more
            logger.info("packets for %s are not kept: %s", self.container.id, error)
        self._bare.criu.require()
        self._bare.criu.features()

    def plan_dump(self, *, own_network: bool = True) -> None:
        """Find out all that CRIU has to be told, and where its images are to lie.

        Raises CheckpointFailed when the container cannot be dumped; it was not touched.
        """
        if self.images_dir is None:
            size = memory_bytes if self.plan.mode == "cold" else image_bytes
            self.images_dir = images.choose_images_dir(self.plan.container, size(self.container))
        self.has_lost_names = any(map(_has_lost_names, self.container.processes()))
        options = CheckpointOptions(
            image_path=self.images_dir,
            tcp_established=True,
            file_locks=True,
            ext_unix_sk=self.plan.ext_unix_sk,
            link_remap=self.has_lost_names,
            ghost_limit_bytes=_GHOST_LIMIT_BYTES,
            own_tmpfs=True,
            leave_stopped=True,
            own_network=own_network,
            criu=self.plan.criu,
        )
        self._checkpoint = Checkpoint(self.container, options)

    def restore_options(self, *, lazy_pages: bool) -> dict[str, Any]:
        """What the destination's restore is told beside CRIU's images."""
        assert self.images_dir is not None
        assert self._checkpoint is not None
        record = self._checkpoint.record
        streams = true_paths(record.descriptors, self.container.state.init_pid)
        options = RestoreOptions(
            image_path=self.images_dir,
            record=replace(record, descriptors=streams),
            bridges=dict(self.plan.bridges),
            tcp_established=True,
            lazy_pages=lazy_pages,
            systemd_cgroup=self.plan.systemd_cgroup,
        )
        return options.to_wire()

    def dump(self, on_notify: Handler) -> DumpStats:
        """Dump it, held and refused by *on_notify*; when it returns the container is dead."""
        assert self._checkpoint is not None
        self.ensure_it_runs()  # who has paused or killed it meanwhile did so without us
        return self._checkpoint.run(on_notify, criu=self.bare.criu, held=self._held)

    def ensure_criu_holds(self) -> None:
        """Raise CriuDied when CRIU is gone: the container then runs on, its dump is worthless."""
        criu = self.bare.criu
        if not criu.alive():
            raise CriuDied("DUMP", None, criu.stderr())

    def mapped_files(self) -> list[str]:
        """Files below the rootfs that some process maps shared and writable, relative to it.

        The kernel takes note of a store into such a mapping when a page turns dirty, not again
        until it was written back - and on a tmpfs never: their times do not tell whether they
        changed.
        """
        found: set[str] = set()
        for pid in self.container.processes():
            with suppress(OSError):
                found |= _shared_writable(pid)
        return self.existing(found)

    def existing(self, names: set[str]) -> list[str]:
        """Those of *names* that are files below the rootfs now."""
        return files_below(self.container.state.rootfs, names)

    def started_by_exec(self) -> list[int]:
        """Its processes that CRIU does not dump, since they do not descend from its init."""
        return strangers(self.container.state.init_pid, self.container.processes())

    def watch_cpu(self) -> None:
        """Begin to measure what CPU it uses, for `slow_down`; nothing where there is no quota."""
        try:
            self._throttle = CpuThrottle(self.container.cgroup)
        except CgroupError as error:
            logger.info("%s cannot be slowed down: %s", self.container.id, error)

    @property
    def cpu_limits(self) -> dict[str, str] | None:
        """What `slow_down` changes, as it was: file -> content. None: it changes nothing."""
        return self._throttle.former if self._throttle is not None else None

    def slow_down(self, share: float) -> None:
        """Leave it *share* of the CPU that it has used lately; 1.0: all. Raises CgroupError."""
        if self._throttle is not None:
            self._throttle.set(share)

    def held_packets(self) -> dict[str, Any]:
        """What was kept since, for Commit."""
        return to_wire(self._held.take()) if self._held is not None else {}

    def freeze(self) -> None:
        """Freeze its cgroup: it then stays still whatever becomes of CRIU or of us."""
        self.container.cgroup.freeze()

    def thaw(self) -> None:
        """Let it go on, its network too when CRIU died and left it locked."""
        unlock(self.container)
        self.container.cgroup.thaw()

    def ensure_it_lives(self) -> None:
        """Raise NotRunning when it has ended, though it was dumped: nobody may bring it back."""
        if not (status := self.container.status()).has_init:
            raise NotRunning(self.container.id, status)

    def isolate(self) -> None:
        """Take its host ends down: not even the kernel answers for it here any more."""
        isolate(Networks.of(self.container.state), self.container.id)

    def reconnect(self) -> None:
        """Host ends up again."""
        reconnect(Networks.of(self.container.state), self.container.id)

    def announce(self) -> None:
        """Tell the switches that its addresses are here, if it is."""
        if self.container.status().has_init:
            announce(self.container.netns_path)

    def end(self) -> None:
        """Kill it, frozen as it is: it never runs another instruction."""
        self.container.cgroup.kill_all()

    def forget(self) -> None:
        """Remove what is left of it on this host; the bundle stays."""
        if self._bare is not None:
            self._bare.close()  # its decoy keeps the network namespace, and so the host ends
        self.container.delete(force=True)

    def close(self) -> None:
        """End our criu and remove the images."""
        self.criu.close()
        if self._held is not None:
            self._held.close()
        if self._bare is not None:
            self._bare.close()
        if self.images_dir is not None:
            shutil.rmtree(self.images_dir, ignore_errors=True)


def memory_bytes(container: Container) -> int:
    """Memory of all its processes, resident or swapped out; shared pages count once a process."""
    return sum(_sizes(container, "VmRSS", "VmSwap"))


def image_bytes(container: Container) -> int:
    """What about goes into CRIU's images when its private memory does not: some of it has to."""
    others = sum(_sizes(container, "RssShmem", "VmLck", "HugetlbPages"))
    return others + memory_bytes(container) // _IN_IMAGES


def _sizes(container: Container, *names: str) -> Iterator[int]:
    """These fields of proc_pid_status(5), in bytes, of all its processes."""
    for pid in container.processes():
        with suppress(OSError):
            text = Path(f"/proc/{pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            yield from (int(fields[name].split()[0]) << 10 for name in names if name in fields)


def true_paths(descriptors: Iterable[Descriptor], pid: int) -> tuple[Descriptor, ...]:
    """The standard descriptors of *pid*, without those paths at which this host has another file.

    The destination opens what it has by the same path. A container that can mount can have its own
    file look as if it lay anywhere: on a filesystem that it has taken out of its tree since.
    """
    return tuple(
        each if each.kind is not Kind.FILE or _is_at(each.link, pid, fd) else replace(each, link="")
        for fd, each in enumerate(descriptors)
    )


def _is_at(path: str, pid: int, fd: int) -> bool:
    try:
        return os.path.samefile(path, f"/proc/{pid}/fd/{fd}")
    except OSError:
        return False


def files_below(rootfs: Path, names: Iterable[str]) -> list[str]:
    """Those of *names* that are files below *rootfs*; what a symbolic link leads to is none."""
    root_fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return sorted(name for name in names if _is_file(root_fd, name))
    finally:
        os.close(root_fd)


def _is_file(root_fd: int, name: str) -> bool:
    try:
        fd = open_in_root(root_fd, name, symlinks=False)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


#: what programs have loaded and changed is a small part of most
_IN_IMAGES = 8
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


def _has_lost_names(pid: int) -> bool:
    with suppress(OSError):
        for link in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(link.path).endswith(_DELETED) and os.stat(link.path).st_nlink:
                    return True
        return bool(_NAMELESS.search(Path(f"/proc/{pid}/maps").read_bytes()))
    return False
