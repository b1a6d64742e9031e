"""What config.json says, as immutable values: the part of the OCI runtime-spec that is carried out.

Named as the specification names them, in snake_case; defaults are what an absent field means.
Named tuples and not frozen dataclasses: making these classes is part of every command's start-up,
and a dataclass costs 1 ms here where a named tuple costs 0.1 ms; that with annotations that are
evaluated at once, since as texts each would be compiled (typing.NamedTuple).
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Root(NamedTuple):
    """The container's root filesystem."""

    #: relative to the bundle, or absolute
    path: str
    readonly: bool = False


class User(NamedTuple):
    """Who the process runs as, inside the container."""

    uid: int = 0
    gid: int = 0
    #: None: 022
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


class Capabilities(NamedTuple):
    """The five sets of capabilities(7), by name; an absent set is empty."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(NamedTuple):
    """One resource limit of setrlimit(2)."""

    type: str
    soft: int
    hard: int


class ConsoleSize(NamedTuple):
    """The window size of a terminal, in characters."""

    height: int = 0
    width: int = 0


class Process(NamedTuple):
    """The program that the container runs, or that exec adds to it."""

    args: tuple[str, ...]
    cwd: str
    env: tuple[str, ...] = ()
    user: User = User()
    capabilities: Capabilities = Capabilities()
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    #: None: keep the runtime's
    oom_score_adj: int | None = None
    #: "": keep the runtime's, or in a further process the container's
    apparmor_profile: str = ""
    selinux_label: str = ""
    #: these three checked, with the names of the specification: runtime/scheduling.py reads them
    scheduler: Mapping[str, Any] = _NOTHING
    io_priority: Mapping[str, Any] = _NOTHING
    exec_cpu_affinity: Mapping[str, Any] = _NOTHING
    #: it gets a pty of the container's own as its standard descriptors
    terminal: bool = False
    #: means nothing without a terminal
    console_size: ConsoleSize = ConsoleSize()


class IdMapping(NamedTuple):
    """A range of user or group ids, and what it is outside (user_namespaces(7))."""

    container_id: int
    host_id: int
    size: int


class Mount(NamedTuple):
    """One mount inside the container, in the order of the list."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    #: of an idmapped mount
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class Hook(NamedTuple):
    """A program that is run at one point of the container's life, with its state on stdin."""

    path: str
    #: args[0] too; empty: the path alone
    args: tuple[str, ...] = ()
    #: empty: the runtime's, or for startContainer the process's
    env: tuple[str, ...] = ()
    timeout: int | None = None


#: libcontainer's name for it
CommandHook = Hook


class Hooks(NamedTuple):
    """The six lists of hooks, in the order in which they are run."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(NamedTuple):
    """A namespace of the container's own, or with a path one that it joins."""

    type: str
    path: str = ""


class TimeOffset(NamedTuple):
    """What is added to a clock in the container's time namespace."""

    secs: int = 0
    nanosecs: int = 0


class Device(NamedTuple):
    """A device node to be there in the container."""

    type: str
    path: str
    #: -1: none, for a fifo
    major: int = -1
    minor: int = -1
    #: may hold the file type bits too, as stat(2) gives them
    file_mode: int = 0o666
    uid: int = 0
    gid: int = 0


class Linux(NamedTuple):
    """The part that is of Linux alone."""

    namespaces: tuple[Namespace, ...] = ()
    #: of the user namespace
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    time_offsets: Mapping[str, TimeOffset] = _NOTHING
    devices: tuple[Device, ...] = ()
    #: as given; empty: the runtime chooses
    cgroups_path: str = ""
    #: checked, with the names of the specification: runtime/cgroups/resources.py reads it
    resources: Mapping[str, Any] = _NOTHING
    #: name as given -> value
    sysctl: Mapping[str, str] = _NOTHING
    rootfs_propagation: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    #: checked, with the names of the specification: runtime/seccomp/compiler.py reads it
    seccomp: Mapping[str, Any] = _NOTHING
    #: checked, with the names of the specification: runtime/scheduling.py reads these two
    personality: Mapping[str, Any] = _NOTHING
    memory_policy: Mapping[str, Any] = _NOTHING
    #: of SELinux, for the filesystems that are mounted
    mount_label: str = ""
    #: checked, with the names of the specification: runtime/resctrl_group.py reads it
    intel_rdt: Mapping[str, Any] = _NOTHING
    #: name on the host -> {"name": in the container}, the same where it has none
    net_devices: Mapping[str, Mapping[str, str]] = _NOTHING

    def namespace(self, kind: str) -> Namespace | None:
        """The namespace of type *kind*, None when the container shares the runtime's."""
        return next((each for each in self.namespaces if each.type == kind), None)

    def owns(self, kind: str) -> bool:
        """Whether the container gets a new namespace of type *kind*, joined by no path."""
        namespace = self.namespace(kind)
        return namespace is not None and not namespace.path

    @property
    def user_namespace(self) -> bool:
        """Whether the container has a user namespace, which may be another's."""
        return self.namespace("user") is not None


class Spec(NamedTuple):
    """All of config.json that is carried out."""

    oci_version: str
    root: Root
    process: Process
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks = Hooks()
    annotations: Mapping[str, str] = _NOTHING
    linux: Linux = Linux()
    #: config.json as it was read
    raw: Mapping[str, Any] = _NOTHING

    def rootfs(self, bundle: Path) -> Path:
        """The root filesystem's directory on the host."""
        return (bundle / self.root.path).resolve()
