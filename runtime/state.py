"""What is known of a container between two commands: `<root>/<id>/state.json` and its lock.

The file is written atomically, and only under the lock. It holds facts that do not change by
themselves (who init is, which cgroups, which namespaces); the status is always derived from the
kernel, so that a container that died while nobody looked is seen as stopped.
OCI runtime-spec "State"; libcontainer State and BaseState.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args, get_origin

from runtime.cgroups.freezer import is_frozen
from runtime.errors import ContainerBusy, CorruptState, InvalidId, NoSuchContainer

STATE_FILE = "state.json"
LOCK_FILE = "lock"
EXEC_FIFO = "exec.fifo"
#: what `start` says to an init whose seccomp filter it has to hand the listener of over
ANSWER_FIFO = "answer.fifo"
#: of an ordinary user's container: `start` binds the socket here at which it says that it is ready
NOTIFY_DIRECTORY = "notify"

_FORMAT = 1
_LOCK_POLL_S = 0.01
_ID = re.compile(r"[A-Za-z0-9_+.-]{1,255}", re.ASCII)


class Status(StrEnum):
    """Status of a container: OCI runtime-spec's four, and libcontainer's paused."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"

    @property
    def has_init(self) -> bool:
        """Whether the container's first process is alive, frozen or not."""
        return self in (Status.CREATED, Status.RUNNING, Status.PAUSED)


# Shared by all states: who wants others gives the state others.
_NO_ITEMS: list[Any] = []
_NO_FIELDS: dict[str, Any] = {}


class State(NamedTuple):
    """The facts of one container; change one with _replace, then save."""

    id: str
    oci_version: str
    bundle: Path
    rootfs: Path
    spec: dict[str, Any]
    #: when the container was created, RFC 3339 in UTC
    created: str
    #: 0 until there is one
    init_pid: int = 0
    #: clock ticks since boot: tells init from a later process of the same pid
    init_start_time: int = 0
    #: libcontainer's Network and Route objects
    networks: list[dict[str, Any]] = _NO_ITEMS
    routes: list[dict[str, Any]] = _NO_ITEMS
    #: cgroup v1: controller -> directory; v2: the one directory, under ""
    cgroup_paths: dict[str, str] = _NO_FIELDS
    #: its cgroup is a unit of systemd's
    systemd_cgroup: bool = False
    #: namespace type (as the spec names it) -> path
    namespace_paths: dict[str, str] = _NO_FIELDS
    #: what init's descriptors 0 to 2 pointed at when it started
    external_descriptors: list[str] = _NO_ITEMS
    #: linux.resources since the last update; empty when those of the spec still hold
    updated_resources: dict[str, Any] = _NO_FIELDS
    #: the descriptor of its init that is its notify socket, until it is started; 0: none
    notify_fd: int = 0
    #: name of the session keyring of its processes; "": that of who started them
    keyring: str = ""
    #: directories of resctrl that were made for it, to be removed with it
    rdt_groups: list[str] = _NO_ITEMS
    #: those whose tasks its processes are, in the order in which they can be joined
    rdt_joined: list[str] = _NO_ITEMS
    #: the host may have refused it cgroups, and did if it has no cgroup_paths
    rootless: bool = False
    #: until it is made, for one that mounts on the host: the mount that its rootfs leads to; else 0
    uncovered: int = 0

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of the spec; empty when it has none."""
        return dict(self.spec.get("annotations") or {})

    @property
    def resources(self) -> dict[str, Any]:
        """The linux.resources that hold now."""
        return self.updated_resources or (self.spec.get("linux") or {}).get("resources") or {}

    @property
    def namespaces(self) -> list[dict[str, Any]]:
        """The linux.namespaces of the spec."""
        return (self.spec.get("linux") or {}).get("namespaces") or []

    @property
    def own_pid_namespace(self) -> bool:
        """Whether its init is the first process of a pid namespace."""
        return any(each.get("type") == "pid" and not each.get("path") for each in self.namespaces)

    def oci(self, status: Status) -> dict[str, Any]:
        """The OCI runtime-spec state object, as hooks read it; pid is 0 for a stopped container."""
        return {
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": str(status),
            "pid": 0 if status is Status.STOPPED else self.init_pid,
            "bundle": str(self.bundle),
            "annotations": self.annotations,
        }

    def save(self, directory: Path) -> None:
        """Write state.json of *directory* atomically; on failure the former one stands."""
        data = {"version": _FORMAT, **self._asdict()} | {
            name: str(getattr(self, name)) for name in _PATHS
        }
        write_atomic(directory / STATE_FILE, json.dumps(data, separators=(",", ":")).encode())

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read state.json of *directory*, whose name is the container's id.

        Raises NoSuchContainer when there is no such file, CorruptState when it cannot be used.
        """
        path = directory / STATE_FILE
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchContainer(directory.name, directory.parent) from None
        try:
            values = _checked(json.loads(text), directory.name)
        except (ValueError, RecursionError) as exc:
            raise CorruptState(path, directory.name, str(exc)) from exc
        return cls(**values)


_PATHS = ("bundle", "rootfs")
# Fields that an older runtime of this format does not write.
_ADDED = frozenset(
    (
        *("updated_resources", "keyring", "rdt_groups", "rdt_joined"),
        *("systemd_cgroup", "notify_fd", "rootless", "uncovered"),
    )
)


def _checked(data: object, container_id: str) -> dict[str, Any]:
    """The constructor arguments that *data* holds; ValueError says what is wrong with it."""
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if data.get("version") != _FORMAT:
        raise ValueError(f"format version is {data.get('version')!r}, this runtime's is {_FORMAT}")
    kinds = State.__annotations__
    values = {name: _checked_field(data, name, kind) for name, kind in kinds.items()}
    if values["id"] != container_id:
        raise ValueError(f"it is the state of container {values['id']!r}")
    return values | {name: Path(values[name]) for name in _PATHS}


def _checked_field(data: dict[str, Any], name: str, kind: Any) -> Any:
    if name not in data and name in _ADDED:
        return State._field_defaults[name]
    if name not in data:
        raise ValueError(f"field {name!r} is missing")
    value, shape = data[name], _shape(kind)
    if not isinstance(value, shape) or isinstance(value, bool) is not (shape is bool):
        raise ValueError(f"field {name!r} is not of type {shape.__name__}")
    item = _shape(get_args(kind)[-1]) if get_args(kind) else object
    if not all(isinstance(each, item) for each in _items(value)):
        raise ValueError(f"field {name!r} has an item that is not of type {item.__name__}")
    return value


def _shape(kind: Any) -> type:
    """What JSON has for it."""
    shape: type = {Path: str, Any: object}.get(kind) or get_origin(kind) or kind
    return shape


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def check_id(container_id: str) -> str:
    """Return *container_id* when it can be one, raise InvalidId when not."""
    if not _ID.fullmatch(container_id) or container_id in (".", ".."):
        raise InvalidId(container_id)
    return container_id


def derive_status(state: State, directory: Path) -> Status:
    """Ask the kernel what the container of *state* is doing now."""
    if not state.init_pid:
        return Status.CREATING if lock_holder(directory) else Status.STOPPED
    if not is_alive(state.init_pid, state.init_start_time):
        return Status.STOPPED
    if is_frozen(state.cgroup_paths):
        return Status.PAUSED
    return Status.CREATED if (directory / EXEC_FIFO).exists() else Status.RUNNING


class ProcessStat(NamedTuple):
    """What of /proc/PID/stat is asked for."""

    #: a letter
    state: str
    parent: int
    #: in clock ticks since boot
    start_time: int


def process_stat(pid: int) -> ProcessStat | None:
    """What /proc/PID/stat says, None when there is no such process (proc_pid_stat(5))."""
    try:
        fields = stat_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return ProcessStat(fields[0].decode(), int(fields[1]), int(fields[19]))


def stat_fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third one on, the state (proc_pid_stat(5)).

    Raises OSError when it is gone.
    """
    text = Path(f"/proc/{pid}/stat").read_bytes()
    # Field 2 is the command's name in parentheses, and a name may have parentheses and blanks.
    return text[text.rindex(b")") + 1 :].split()


def is_alive(pid: int, start_time: int) -> bool:
    """Whether *pid* is still the process that started at *start_time*, and no zombie."""
    stat = process_stat(pid)
    return stat is not None and stat.start_time == start_time and stat.state not in "ZX"


def now() -> str:
    """This moment in RFC 3339, UTC, with nanoseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{moment}.{nanoseconds:09d}Z"


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace *path* by *data*: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def lock(directory: Path, *, timeout_s: float = 10.0) -> Iterator[None]:
    """Hold the container of *directory* for a command that changes it (flock(2)).

    The lock ends with the process, however that ends. Raises ContainerBusy after *timeout_s*, and
    NoSuchContainer when there is no directory, or it was removed while we waited.
    """
    try:
        fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        raise NoSuchContainer(directory.name, directory.parent) from None
    try:
        _take(fd, directory, timeout_s)
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def _take(fd: int, directory: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _try_flock(fd, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            raise ContainerBusy(directory.name, _named_holder(fd), timeout_s)
        time.sleep(_LOCK_POLL_S)
    if os.fstat(fd).st_nlink == 0:
        raise NoSuchContainer(directory.name, directory.parent)


def _try_flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_holder(directory: Path) -> str | None:
    """The process that holds the container's lock, for a message; None when nobody does."""
    with suppress(FileNotFoundError, NotADirectoryError):
        fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
        try:
            return None if _try_flock(fd, fcntl.LOCK_SH) else _named_holder(fd)
        finally:
            os.close(fd)
    return None


def _named_holder(fd: int) -> str:
    pid = os.pread(fd, 16, 0).decode("ascii", "replace")
    return f"process {pid}" if pid else "another process"
