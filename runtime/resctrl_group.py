"""The resctrl group of a container: the share of cache and memory bandwidth that its tasks get.

A directory of the resctrl filesystem: a pid is written to its `tasks`, and what that forks stays
there. OCI runtime-spec config-linux.md "IntelRdt"; kernel documentation filesystems/resctrl.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runtime import resctrl
from runtime.errors import SetupFailed, UnsupportedField
from runtime.oserrors import reason

if TYPE_CHECKING:
    from runtime.spec.model import Spec
    from runtime.state import State
    from runtime.undo import Undo

_STEP = "setting Intel RDT"
_MODE = 0o755


class Groups(NamedTuple):
    """Directories of a container: its group, and one below that where it is monitored alone."""

    #: all of them, in the order in which the kernel lets them be joined
    joined: list[str]
    #: those that go with the container
    made: list[str]


def enter(state: State, spec: Spec, pid: int, undo: Undo) -> State:
    """Put *pid* into the group that *spec* asks for; the state that knows of it.

    Raises as `make` and `join` do, and *undo* as there.
    """
    at = resctrl.root()
    groups = make(spec.linux.intel_rdt, state.id, at=at, undo=undo)
    join(groups.joined, pid, at=at)
    return state._replace(rdt_joined=groups.joined, rdt_groups=groups.made)


def make(wanted: Mapping[str, Any], container_id: str, *, at: Path | None, undo: Undo) -> Groups:
    """Make the group that *wanted* asks for, with its shares, or find it.

    at: the mounted resctrl, None where there is none: UnsupportedField. SetupFailed for what the
    kernel refuses, with its own word for it; what was made is then removed by *undo*.
    """
    if at is None:
        why = "the resctrl filesystem is not mounted on this host"
        raise UnsupportedField(Path("config.json"), [("linux.intelRdt", why)])
    named = "closID" in wanted
    group = at / wanted.get("closID", container_id).strip("/")
    schemata = _schemata(wanted)
    joined, made = [str(group)], []
    with _told(at):
        if schemata or not named:
            was_made = _directory(group, undo)
            # One with a name is for others too; only what is this container's alone goes with it.
            made += [] if named else was_made
        elif not group.is_dir():
            raise SetupFailed(_STEP, f"{group}: is to be there before, as no schemata are given")
        if schemata:
            _write(group / "schemata", schemata)
        if wanted.get("enableMonitoring"):
            monitored = group / "mon_groups" / container_id
            made += _directory(monitored, undo)
            joined.append(str(monitored))
    return Groups(joined, made)


def _schemata(wanted: Mapping[str, Any]) -> str:
    lines = [wanted.get("l3CacheSchema"), wanted.get("memBwSchema"), *wanted.get("schemata", ())]
    return "".join(f"{line}\n" for line in lines if line)


def join(groups: Iterable[str], pid: int, *, at: Path | None) -> None:
    """Put *pid* into each of *groups*, as `make` has them in `joined`; SetupFailed as there."""
    with _told(at):
        for group in groups:
            _write(Path(group, "tasks"), str(pid))


def change(schemata: Iterable[str], pid: int, *, at: Path | None, undo: Undo) -> None:
    """Write lines of *schemata* for the group that *pid* is in; *undo* writes the former ones.

    Raises SetupFailed where it has no group of its own, and for what the kernel refuses.
    """
    group = at and resctrl.group_of(at, pid)
    if at is None or group is None or group == at:
        why = "no resctrl on this host" if at is None else "it has no linux.intelRdt"
        raise SetupFailed(_STEP, f"the container cannot be given a share of cache or memory: {why}")
    file = group / "schemata"
    with _told(at):
        former = "".join(f"{line.strip()}\n" for line in file.read_text().splitlines())
        _write(file, "".join(f"{line}\n" for line in schemata))
    undo.on_error(_write, file, former)


def remove(paths: list[str]) -> None:
    """Remove the directories that `make` returned; their tasks go back to the group above."""
    for path in reversed(paths):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise SetupFailed(_STEP, reason(exc)) from exc


def _directory(path: Path, undo: Undo) -> list[str]:
    try:
        path.mkdir(_MODE)
    except FileExistsError:
        return []
    undo.on_error(remove, [str(path)])
    return [str(path)]


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as exc:
        exc.filename = str(path)
        raise
    finally:
        os.close(fd)


@contextmanager
def _told(at: Path | None) -> Iterator[None]:
    """SetupFailed for what the kernel refuses, with its own word for it."""
    try:
        yield
    except OSError as exc:
        raise SetupFailed(_STEP, f"{reason(exc)}{_last_word(at)}") from exc


def _last_word(at: Path | None) -> str:
    """What the kernel says of the last thing that it refused."""
    if at is None:
        return ""
    try:
        text = (at / "info/last_cmd_status").read_text().strip()
    except OSError:
        return ""
    return f" ({text})" if text and text != "ok" else ""
