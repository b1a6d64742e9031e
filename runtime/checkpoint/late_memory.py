"""The memory that a container in a user namespace has to wait for, where CRIU cannot see to that.

Its processes may not ask for a userfaultfd, which CRIU has each of them do: so CRIU restores them
without those pages, and we have them waited for (runtime.memory.heirs) and give the userfaultfds to
the lazy-pages server as CRIU would (runtime.memory.lazy.protocol).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from criu_rpc.memory_images import PE_LAZY, read_pagemap, write_pagemap
from runtime.held import Closing
from runtime.memory.heirs import Heirs
from runtime.memory.lazy.protocol import Giver
from runtime.memory.runs import Run
from runtime.processes import vpid_of


class LateMemory(Closing):
    """Of one restore, in the order of its methods; a context manager."""

    def __init__(self, criu_pid: int, work_dir: Path) -> None:
        """criu has not forked yet; the server listens in *work_dir*. Raises OSError."""
        self._lazy: dict[int, list[Run]] = {}
        self._giver: Giver | None = None
        self._work_dir = work_dir
        self._heirs = Heirs(criu_pid)

    def take(self, images_dir: Path) -> None:
        """Take what is left to the server out of the images. Raises BadImages, OSError."""
        for path in images_dir.glob("pagemap-*.img"):
            pages_id, entries = read_pagemap(path)
            lazy = [(each.address, each.end) for each in entries if each.flags & PE_LAZY]
            pid = path.stem.removeprefix("pagemap-")
            if lazy and pid.isdecimal():
                self._lazy[int(pid)] = lazy
                kept = (each for each in entries if not each.flags & PE_LAZY)
                write_pagemap(path, pages_id, kept)

    def give(self, init_pid: int, pids: Iterable[int]) -> None:
        """All is restored and stands still: from now on what is missing is the server's.

        pids: those of the container's processes in *init_pid*'s pid namespace, others too.
        Raises OSError.
        """
        inside = _by_pid_inside(init_pid, pids)
        lazy = {inside[vpid]: runs for vpid, runs in self._lazy.items() if vpid in inside}
        watched = self._heirs.watch(lazy)
        self._giver = Giver(self._work_dir)
        for vpid, pid in inside.items():
            if pid in watched:
                self._giver.give(vpid, pid, watched[pid])
        self._heirs.close()

    def finish(self) -> None:
        """It is about to run. Raises OSError."""
        if self._giver is not None:
            self._giver.finish()

    def close(self) -> None:
        """Let go of all: what nobody serves then would read zeros."""
        self._heirs.close()
        if self._giver is not None:
            self._giver.close()


def _by_pid_inside(init_pid: int, pids: Iterable[int]) -> dict[int, int]:
    namespace = os.stat(f"/proc/{init_pid}/ns/pid")
    found = {}
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            if os.path.samestat(os.stat(f"/proc/{pid}/ns/pid"), namespace):
                found[vpid_of(pid)] = pid
    return found
