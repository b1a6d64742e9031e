"""lab.json: what was asked of a lab, and for whose sake it is up."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from migrator.lab.layout import LABS


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told from another that gets its id later."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """None when there is no such process, or only its zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        return ProcessIdentity.of(self.pid) == self


@dataclass(frozen=True, slots=True)
class Record:
    """owner: the process at whose end the lab is worth nothing any more; None: up until `down`."""

    host_count: int
    bandwidth: str
    owner: ProcessIdentity | None = None

    def save(self, name: str) -> None:
        path = LABS / name / "lab.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)

    def with_bandwidth(self, bandwidth: str) -> Record:
        return replace(self, bandwidth=bandwidth)

    @property
    def abandoned(self) -> bool:
        return self.owner is not None and not self.owner.alive()


def load(name: str) -> Record | None:
    """The record of the lab called *name*, None when there is none that can be read."""
    try:
        read = json.loads((LABS / name / "lab.json").read_text())
        owner = ProcessIdentity(**read["owner"]) if read["owner"] else None
        return Record(int(read["host_count"]), str(read["bandwidth"]), owner)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def this_process() -> ProcessIdentity:
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    return identity
