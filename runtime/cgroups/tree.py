"""Files and directories of a cgroup hierarchy: make, read, write, list, remove.

Every failure is a CgroupError that names the file.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from criu_rpc.logger import Logger
from runtime.cgroups.resources import Setting
from runtime.errors import CgroupError

logger = Logger(__name__)

PROCESSES = "cgroup.procs"

#: The parent of our cgroups, made with the first and removed with the last of them.
OUR_PARENT = "migrator"

_TRIES = 5


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor for reading of a control file or a directory."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise CgroupError(path, f"cannot be opened: {exc.strerror}") from exc
    try:
        yield fd
    finally:
        os.close(fd)


def read(path: Path) -> str:
    """The content of a control file, without the last line's end."""
    try:
        return path.read_text().rstrip("\n")
    except OSError as exc:
        raise CgroupError(path, f"cannot be read: {exc.strerror}") from exc


def read_some(path: Path) -> str:
    """`read` for a file that not every kernel has, or lets be read: "" without it."""
    try:
        return path.read_text().rstrip("\n")
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV):
            return ""
        raise CgroupError(path, f"cannot be read: {exc.strerror}") from exc


def write(path: Path, value: str) -> None:
    """Write *value* to a control file in one write(2), as the kernel wants it."""
    logger.debug("cgroup: %r > %s", value, path)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as exc:
        raise CgroupError(path, f"cannot write {value!r}: {exc.strerror}") from exc


def make(directory: Path, prepare: Callable[[Path], None]) -> list[Path]:
    """Make *directory* and its missing parents; *prepare* is called with each that was made.

    Returns those directories, outermost first. On failure none of them is left.
    """
    made: list[Path] = []
    try:
        for _ in range(_TRIES):
            try:
                for each in _missing(directory):
                    if _mkdir(each):
                        made.append(each)
                        prepare(each)
            except (FileNotFoundError, CgroupError) as exc:
                # Another container's end may remove the common parent between two steps of ours.
                if not _is_gone(exc):
                    raise
            else:
                return made
        raise CgroupError(directory, "its parent is removed again and again by another process")
    except BaseException:
        remove_empty(reversed(made))
        raise


def _is_gone(exc: Exception) -> bool:
    """ENODEV is what an open control file of a removed cgroup says."""
    cause = exc.__cause__ if isinstance(exc, CgroupError) else exc
    return isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ENODEV)


def _missing(directory: Path) -> list[Path]:
    chain = [directory, *directory.parents]
    return [each for each in reversed(chain) if not each.exists()]


def _mkdir(directory: Path) -> bool:
    try:
        directory.mkdir(0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise CgroupError(directory, f"cannot be made: {exc.strerror}") from exc
    return True


def remove_empty(directories: Iterable[Path]) -> None:
    """Remove those of *directories* that have neither processes nor cgroups in them."""
    for directory in directories:
        with suppress(OSError):
            directory.rmdir()


def processes(directory: Path) -> list[int]:
    """The pids of *directory* and of all cgroups below it; none when it is not there.

    A process that no pid of our namespace stands for reads as 0, and is left out.
    """
    found: set[int] = set()
    for each in _below(directory):
        # ENOENT, ENODEV: just removed. EOPNOTSUPP: v2, threads of a process that is listed above.
        with suppress(OSError):
            found.update(map(int, (each / PROCESSES).read_text().split()))
    return sorted(found - {0})


def remove(directory: Path, deadline: float) -> None:
    """Remove *directory* with all cgroups below it, and our common parent when that is empty.

    A cgroup stays busy for a moment after its last process was reaped: tried until *deadline*
    (time.monotonic). Raises CgroupError when a process is still in it.
    """
    pause_s = 0.001
    while busy := _rmdir_tree(directory):
        if time.monotonic() > deadline:
            pids = processes(directory)
            why = f"processes {pids} are in it: kill them first" if pids else busy.strerror
            raise CgroupError(directory, f"cannot be removed: {why}")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
    if directory.parent.name == OUR_PARENT:
        remove_empty([directory.parent])


def _rmdir_tree(directory: Path) -> OSError | None:
    for each in reversed(list(_below(directory))):
        try:
            each.rmdir()
        except FileNotFoundError:
            continue
        except OSError as exc:
            return exc
    return None


def _below(directory: Path) -> Iterator[Path]:
    """*directory* and all cgroups below it, each before its children; nothing when it is gone."""
    if directory.is_dir():
        for path, _, _ in os.walk(directory):
            yield Path(path)


def write_all(
    settings: Iterable[Setting],
    directory_of: Callable[[str], Path | None],
    write: Callable[[Path, str], None] = write,
) -> None:
    """Write each of *settings* below the directory of its controller, by *write*.

    Some values depend on each other and may be written only in one order, which the former values
    decide (memory.limit_in_bytes and memory.memsw.limit_in_bytes, quota and burst): what the kernel
    calls invalid is tried once more after the others.
    """
    again: list[Setting] = []
    for setting in settings:
        try:
            _write_setting(setting, directory_of, write)
        except CgroupError as exc:
            if not _is_invalid(exc):
                raise
            again.append(setting)
    for setting in again:
        _write_setting(setting, directory_of, write)


def _is_invalid(exc: CgroupError) -> bool:
    return isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.EINVAL


def _write_setting(
    setting: Setting,
    directory_of: Callable[[str], Path | None],
    write: Callable[[Path, str], None],
) -> None:
    directory = directory_of(setting.controller)
    if directory is None:
        why = f"is not available here, and linux.resources.{setting.field} needs it"
        raise CgroupError(f"controller {setting.controller}", why)
    for name, value in setting.writes:
        if (directory / name).exists():
            return write(directory / name, value)
    if not setting.optional:
        names = " or ".join(name for name, _ in setting.writes)
        why = f"has no {names}: this kernel cannot carry out linux.resources.{setting.field}"
        raise CgroupError(directory, why)
    return None
