"""Who owns a migrating container, on disk: the record that survives a crash of the migrator itself.

One file a container and side, ``<root>/migrations/<container>.<side>.jsonl``: a line a step,
appended and synced before the step's effect. It is held under flock(2) as long as its migration is
at work, so that two migrations of one container, or a migration and its `resolve`, never run
together.

    source:       begin -> dumping -> commit -> moved          (rolled back: the file is removed)
                  post-copy: commit -> serving -> moved | lost
    destination:  prepared -> arming -> armed -> restored -> run -> running | dead
                  post-copy: running -> filled

*commit* is the point of no return: without it the source may be resumed, with it only after the
destination said "dead". *run* is an intention: what became of it is looked up, then written as
running or dead, for good. The state root lies on a tmpfs on most hosts: a reboot ends the
containers and these records together.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrator.errors import AtWork, MigrationError, UsageProblem

SOURCE, DESTINATION = "source", "destination"
_SUFFIX = f".{DESTINATION}.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: the step, when it was written (CLOCK_REALTIME, seconds), and what it knows."""

    step: str
    time_s: float
    data: dict[str, Any]


class Journal:
    """An open, locked journal of one container on one side. Use `open_journal`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.entries = _parse(path, fd)

    def write(self, step: str, **data: Any) -> None:
        """Append *step* and sync it; OSError (disk full) leaves the step unwritten."""
        entry = Entry(step, time.time(), data)
        line = json.dumps({"step": step, "time": entry.time_s, **data}, separators=(",", ":"))
        end = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            _write_all(self._fd, f"{line}\n".encode())
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, end)
            raise
        self.entries.append(entry)

    def last(self, step: str) -> Entry | None:
        """The newest entry of *step*."""
        return next((entry for entry in reversed(self.entries) if entry.step == step), None)

    def has(self, step: str) -> bool:
        return self.last(step) is not None

    def keep(self) -> None:
        """Set aside that the container ran here, for the source that may still ask."""
        root, container = self.path.parent.parent, self.path.name.removesuffix(_SUFFIX)
        kept = kept_path(root, container, self.entries[0].data["migration"])
        kept.touch(mode=0o600)

    def clear(self) -> None:
        """Forget what an earlier migration wrote."""
        os.ftruncate(self._fd, 0)
        self.entries.clear()

    def remove(self) -> None:
        """The migration is over on this side: forget it."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def journal_path(root: Path, container: str, side: str) -> Path:
    return root / "migrations" / f"{container}.{side}.jsonl"


def kept_path(root: Path, container: str, migration: str) -> Path:
    """Where `keep` notes that *migration* ended with the container running here."""
    return root / "migrations" / f"{container}.{check_migration(migration)}.ran"


def check_migration(migration: str) -> str:
    """*migration*, which is part of a file's name. Raises MigrationError when it cannot be."""
    if not re.fullmatch(r"[0-9a-f]{1,64}", migration):
        raise MigrationError(f"{migration!r} is no migration's id")
    return migration


def open_journal(root: Path, container: str, side: str, *, wait_s: float = 0.0) -> Journal:
    """Open and lock the journal, made when it is not there.

    wait_s: how long to wait for the lock; then AtWork is raised.
    """
    path = journal_path(root, container, side)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            raise AtWork(container) from None
        if _same_file(fd, path):
            _drop_torn_line(fd)
            return Journal(path, fd)
        os.close(fd)  # removed between our open and our lock


def peek(root: Path, container: str, side: str) -> list[Entry]:
    """The entries as they are now, without the lock: the holder may write on."""
    path = journal_path(root, container, side)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return []
    try:
        return _parse(path, fd)
    finally:
        os.close(fd)


def exists(root: Path, container: str, side: str) -> bool:
    """Whether a migration of *container* left a record, be it an empty one."""
    return journal_path(root, container, side).exists()


def identity(root: Path) -> str:
    """Of the records below *root*: another one once they were lost, and their silence says nothing.

    Made when there is none yet; "" where it cannot be.
    """
    path = root / "migrations" / ".identity"
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            new = path.with_name(f"{path.name}.{os.getpid()}")
            new.write_text(uuid.uuid4().hex)
            with suppress(FileExistsError):  # another agent has just made it
                os.link(new, path)
            new.unlink()
        return path.read_text()
    return ""


def ensure_no_migration(root: Path, container: str) -> None:
    """Raise UsageProblem while a migration holds *container* here, frozen: it may run elsewhere."""
    if peek(root, container, SOURCE):
        raise UsageProblem(
            f"a migration holds container {container}: wait for its end, or run "
            f"migrator resolve {container}"
        )


def _same_file(fd: int, path: Path) -> bool:
    try:
        found, ours = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_all(fd: int) -> bytes:
    text = b""
    while chunk := os.pread(fd, 1 << 16, len(text)):
        text += chunk
    return text


def _drop_torn_line(fd: int) -> None:
    """A crash may have cut the last line: that step was never taken."""
    os.ftruncate(fd, _read_all(fd).rfind(b"\n") + 1)


def _parse(path: Path, fd: int) -> list[Entry]:
    """The whole lines of the file."""
    text = _read_all(fd)
    entries = []
    whole = text[: text.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            data = json.loads(line)
            entries.append(Entry(str(data.pop("step")), float(data.pop("time")), data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MigrationError(f"{path}: line {number} is no journal entry: {error}") from error
    return entries
