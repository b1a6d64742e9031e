"""Every error of the runtime, one root, semantic leaves.

ContainerError                  something failed for one container, or for the host it should run on
├── InvalidId                   the id is not one
├── NoSuchContainer             no state directory of that id below the root
├── ContainerExists             the id is taken
├── ContainerBusy               another command holds the container's lock
├── NoSuchProcess               a supervisor knows no process of that name in the container
├── ProcessExists               the name is taken in the container
├── CorruptState                state.json is there and cannot be used
├── WrongStatus                 the verb does not apply to a container in this status
│   ├── NotRunning
│   ├── NotPaused
│   ├── Paused
│   └── StillRunning
├── BundleError                 the bundle directory or its rootfs cannot be used
├── InvalidSpec                 config.json (or process.json): all faults, each with its JSON path
│   └── UnsupportedField        the same, when nothing is wrong but what we do not carry out
├── SetupFailed                 a step of making the container's environment
│   └── ExecFailed              the program itself: not found, not executable
├── HookFailed                  a hook of the spec
├── CgroupError                 a cgroup file or directory
├── NetworkError                an interface or a route of the container
├── NetworkNotCarried           a described network namespace cannot be made again here
├── InvalidNetwork              a field of a Network or Route, wherever it was given
├── CheckpointFailed            CRIU or we could not dump; the CriuError is the __cause__
└── RestoreFailed               CRIU or we could not restore; the CriuError is the __cause__

Messages are one line in lower case: the object, the fault, the remedy where there is one.
`exit_code` is what a command line ends with; only the command line reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import ClassVar, NamedTuple

PathText = str | PathLike[str]


class ContainerError(Exception):
    """Root of all errors of this package."""

    exit_code: ClassVar[int] = 1


class InvalidId(ContainerError):
    """The id has a character that an id must not have, or none at all."""

    def __init__(self, container_id: str) -> None:
        super().__init__(
            f"invalid container id {container_id!r}: use letters, digits, '_', '+', '-' and '.', "
            "at most 255 of them, and neither '.' nor '..'"
        )
        self.container_id = container_id


class NoSuchContainer(ContainerError):
    """Nothing of that id exists below the state root."""

    def __init__(self, container_id: str, root: PathText | None = None) -> None:
        below = "" if root is None else f" below {root}"
        super().__init__(
            f"container {container_id} does not exist{below} (`migrator list` shows what does)"
        )
        self.container_id = container_id


class ContainerExists(ContainerError):
    """The id is taken; nothing was changed."""

    def __init__(self, container_id: str) -> None:
        super().__init__(
            f"container {container_id} already exists: choose another id, "
            f"or remove it with `migrator delete {container_id}`"
        )
        self.container_id = container_id


class ContainerBusy(ContainerError):
    """Another command held the container's lock for longer than we wait."""

    def __init__(self, container_id: str, holder: str, waited_s: float) -> None:
        super().__init__(
            f"container {container_id} is in use by {holder} (waited {waited_s:g} s): "
            "try again when that has ended"
        )
        self.container_id = container_id


class NoSuchProcess(ContainerError):
    """No process of that name runs in the container, or somebody else has started it."""

    def __init__(self, container_id: str, name: str) -> None:
        super().__init__(f"container {container_id} has no process {name} that was started here")
        self.container_id = container_id
        self.name = name


class ProcessExists(ContainerError):
    """A process of that name runs in the container; nothing was started."""

    def __init__(self, container_id: str, name: str) -> None:
        super().__init__(
            f"container {container_id} has a process {name} already: choose another name"
        )
        self.container_id = container_id
        self.name = name


class CorruptState(ContainerError):
    """state.json exists and cannot be used: cut short, edited, or of another version."""

    def __init__(self, path: PathText, container_id: str, why: str) -> None:
        super().__init__(
            f"state of container {container_id} cannot be read from {path}: {why} "
            f"(`migrator delete --force {container_id}` removes what is left of it)"
        )
        self.path = path
        self.container_id = container_id
        self.why = why


class WrongStatus(ContainerError):
    """The verb needs another status; nothing was changed."""

    def __init__(
        self, container_id: str, status: str, needed: str | Iterable[str], *, remedy: str = ""
    ) -> None:
        wanted = needed if isinstance(needed, str) else " or ".join(needed)
        hint = f": {remedy}" if remedy else ""
        super().__init__(f"container {container_id} is {status}, not {wanted}{hint}")
        self.container_id = container_id
        self.status = status
        self.needed = wanted


class NotRunning(WrongStatus):
    """The container has no running process."""

    def __init__(self, container_id: str, status: str) -> None:
        super().__init__(container_id, status, "running", remedy="container not running")


class NotPaused(WrongStatus):
    """The container is not frozen."""

    def __init__(self, container_id: str, status: str) -> None:
        super().__init__(container_id, status, "paused")


class Paused(WrongStatus):
    """The container is frozen, and the verb needs it to run."""

    def __init__(self, container_id: str, fault: str = "") -> None:
        remedy = f"`migrator resume {container_id}` first"
        super().__init__(
            container_id, "paused", "running", remedy=f"{fault}, {remedy}" if fault else remedy
        )


class StillRunning(WrongStatus):
    """The container has processes, and the verb needs it to have none."""

    def __init__(self, container_id: str, status: str) -> None:
        remedy = f"kill it first, or use `migrator delete --force {container_id}`"
        super().__init__(container_id, status, "stopped", remedy=remedy)


class BundleError(ContainerError):
    """The bundle cannot be used as it lies on disk."""

    def __init__(self, path: PathText, why: str) -> None:
        super().__init__(f"bundle {path}: {why}")
        self.path = path
        self.why = why


class Fault(NamedTuple):
    """One fault of a spec: where (`process.user.uid`, `mounts[2].type`) and what was expected."""

    json_path: str
    why: str

    def __str__(self) -> str:
        return f"{self.json_path}: {self.why}" if self.json_path else self.why


class InvalidSpec(ContainerError):
    """config.json or process.json is malformed; *faults* has every fault found, in file order."""

    def __init__(self, path: PathText, faults: Iterable[tuple[str, str]]) -> None:
        self.path = path
        self.faults = tuple(Fault(*fault) for fault in faults)
        super().__init__(f"{path}: {'; '.join(map(str, self.faults))}")


class UnsupportedField(InvalidSpec):
    """The spec is sound, but asks for what this runtime does not carry out."""


class SetupFailed(ContainerError):
    """A step of making the container failed; what the steps before it had made is undone."""

    def __init__(self, step: str, why: str, message: str = "") -> None:
        super().__init__(message or f"{step}: {why}")
        self.step = step
        self.why = why


class ExecFailed(SetupFailed):
    """The program could not be executed."""

    #: the line is the program's start's own, as from a shell's exec: nobody's name goes before it
    bare = True

    def __init__(self, path: str, why: str) -> None:
        super().__init__("exec", why, f"exec {path}: {why}" if path else "")
        self.path = path


class HookFailed(ContainerError):
    """A hook could not be run, ended with a status other than 0, or took too long."""

    def __init__(self, name: str, path: PathText, why: str, *, index: int = 0) -> None:
        super().__init__(f"error running {name} hook #{index}: {path}: {why}")
        self.name = name
        self.index = index
        self.path = path
        self.why = why


class CgroupError(ContainerError):
    """A cgroup could not be made, written, frozen or removed."""

    def __init__(self, path: PathText, why: str) -> None:
        super().__init__(f"cgroup {path}: {why}")
        self.path = path
        self.why = why


class NetworkError(ContainerError):
    """An interface, address or route of the container could not be set up."""

    def __init__(self, ifname: str, why: str) -> None:
        super().__init__(f"network interface {ifname}: {why}")
        self.ifname = ifname
        self.why = why


class NetworkNotCarried(ContainerError):
    """A network namespace that was described cannot be made again on this host."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the container's network namespace cannot be made again here: {why}")
        self.why = why


class InvalidNetwork(ContainerError):
    """A field of libcontainer's Network or Route cannot be used; nothing was made."""

    def __init__(self, where: str, field: str, value: object, why: str) -> None:
        shown = "" if value is None else repr(value)
        super().__init__(f"{where}: {' '.join(filter(None, (field, shown, why)))}")
        self.field = field
        self.value = value
        self.why = why


class CheckpointFailed(ContainerError):
    """The container was not dumped; it is as it was before, running or paused."""

    def __init__(self, container_id: str, why: str) -> None:
        super().__init__(f"checkpoint of container {container_id} failed: {why}")
        self.container_id = container_id
        self.why = why


class RestoreFailed(ContainerError):
    """The container was not restored; nothing of it is left on this host."""

    def __init__(self, container_id: str, why: str) -> None:
        super().__init__(f"restore of container {container_id} failed: {why}")
        self.container_id = container_id
        self.why = why
