"""Say who the users of a new user namespace are outside of it (user_namespaces(7)).

Root writes the maps itself. An ordinary user may map one id, the own; for more there are setuid
programs that know which ids are lent to whom: newuidmap(1), newgidmap(1), subuid(5).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import SetupFailed
from runtime.oserrors import failing
from runtime.rootfs.mounts import id_map
from runtime.spec.model import IdMapping

_STEP = "mapping the users of the user namespace"


class IdMaps:
    """The maps of one namespace."""

    def __init__(self, uids: Sequence[IdMapping], gids: Sequence[IdMapping]) -> None:
        self._uids = uids
        self._gids = gids

    def write(self, pid: int) -> None:
        """Write the maps of the namespace that *pid*, of one thread, has just made.

        Raises SetupFailed; the namespace is then of no use.
        """
        with failing(_STEP):
            if os.geteuid() == 0:
                _write(pid, "uid_map", id_map(self._uids))
                _write(pid, "gid_map", id_map(self._gids))
            else:
                self._write_as_user(pid)

    def expect(self, pid: int) -> None:
        """See that the namespace that *pid* has joined has these maps.

        They need not be given, but containerd and CRI-O do. Raises SetupFailed.
        """
        for name, wanted in (("uid", self._uids), ("gid", self._gids)):
            with failing(_STEP):
                found = Path(f"/proc/{pid}/{name}_map").read_text()
            if wanted and _rows(found) != _rows(id_map(wanted)):
                why = f"it has '{' '.join(found.split())}', other ones than linux.{name}Mappings"
                raise SetupFailed("joining the user namespace", f"{why}: leave these out")

    def _write_as_user(self, pid: int) -> None:
        if _is_own(self._uids, os.geteuid()):
            _write(pid, "uid_map", id_map(self._uids))
        else:
            _run("newuidmap", pid, self._uids)
        if _is_own(self._gids, os.getegid()):
            # Else who may drop groups could get at what a group is denied (user_namespaces(7)).
            _write(pid, "setgroups", "deny")
            _write(pid, "gid_map", id_map(self._gids))
        else:
            _run("newgidmap", pid, self._gids)


def _is_own(mappings: Sequence[IdMapping], own: int) -> bool:
    """Whether the kernel lets its user *own* write *mappings*."""
    return len(mappings) == 1 and (mappings[0].host_id, mappings[0].size) == (own, 1)


def _rows(id_map: str) -> list[list[str]]:
    return sorted(line.split() for line in id_map.splitlines())


def _write(pid: int, name: str, text: str) -> None:
    path = Path(f"/proc/{pid}/{name}")
    try:
        path.write_text(text)
    except OSError as exc:
        exc.filename = f"{name} {' '.join(text.split())!r}"
        raise


def _run(program: str, pid: int, mappings: Sequence[IdMapping]) -> None:
    import subprocess  # noqa: PLC0415 - lazy: 15 ms, and for ordinary users only

    numbers = [str(number) for mapping in mappings for number in mapping]
    try:
        done = subprocess.run(
            [program, str(pid), *numbers], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        why = f"{program} is needed to map more than the own id: install the package uidmap"
        raise SetupFailed(_STEP, why) from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        remedy = "/etc/subuid and /etc/subgid say which ids are lent to you"
        raise SetupFailed(_STEP, f"{said} ({remedy})")
