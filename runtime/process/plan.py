"""What init is told: plain data that marshal(3) carries from the runtime to the fresh interpreter.

The runtime decides (mounts.plan, namespaces.plan, ...), init only acts; so every decision can be
read and tested without a kernel. These classes exist for the type checker and for readers: init
never imports this module.
"""

from __future__ import annotations

from typing import Any, TypedDict

#: of users and of groups, each as /proc/PID/uid_map takes it
IdMaps = tuple[str, str]

#: name, then None for an option without a value
MountOption = tuple[str, str | None]


class MountPlan(TypedDict):
    """One mount inside the rootfs, in the order of the list."""

    #: "bind", "remount", or the type of a filesystem
    fstype: str
    source: str
    destination: str
    #: of a bind: with the mounts below the source
    recursive: bool
    #: MOUNT_ATTR_*, of this mount alone
    attr_set: int
    attr_clr: int
    #: MOUNT_ATTR_* that are cleared too, but for those that the kernel has locked
    replaced: int
    #: MOUNT_ATTR_*, of this mount and those below it
    recursive_set: int
    recursive_clr: int
    #: MS_SHARED and so on, each with whether it is meant for the mounts below too
    propagation: list[tuple[int, bool]]
    #: what the filesystem itself understands
    options: list[MountOption]
    #: begins with what is in the directory that it covers
    copy_up: bool
    #: which of RootfsPlan.idmaps it has, OWN_USER_NAMESPACE, or none
    idmap: int | None
    #: for the mounts below too
    idmap_recursive: bool


class DevicePlan(TypedDict):
    """One device node."""

    path: str
    #: S_IFCHR, S_IFBLK or S_IFIFO and the permissions
    mode: int
    major: int
    minor: int
    uid: int
    gid: int


class RootfsPlan(TypedDict):
    """The filesystem as the container sees it."""

    path: str
    #: the container has a mount namespace; else all is mounted where the runtime is
    own_mounts: bool
    #: by pivot_root(2), else by moving the rootfs over the root
    pivot: bool
    readonly: bool
    #: of the root mount; 0: private
    propagation: int
    propagation_recursive: bool
    mounts: list[MountPlan]
    idmaps: list[IdMaps]
    devices: list[DevicePlan]
    #: (what it points to, where it is)
    symlinks: list[tuple[str, str]]
    masked_paths: list[str]
    readonly_paths: list[str]
    #: SELinux context of what is mounted to mask a path; "": none
    mount_label: str
    #: made when it is missing
    cwd: str


class CapabilityPlan(TypedDict):
    """The five sets of capabilities(7) as masks."""

    bounding: int
    effective: int
    inheritable: int
    permitted: int
    ambient: int


class SeccompPlan(TypedDict):
    """The filter that the program comes under."""

    #: number of seccomp(2) on this machine
    call: int
    #: of classic BPF
    program: bytes
    #: SECCOMP_FILTER_FLAG_*
    flags: int
    #: seccomp(2) returns a descriptor, which the runtime takes
    listener: bool
    #: ... as an ordinary user, who may only take it from whom he may trace
    traceable: bool


class TerminalPlan(TypedDict):
    """The terminal of a process, from the devpts at /dev/pts."""

    #: in characters; 0, 0: as the kernel makes it
    height: int
    width: int
    #: it is to be /dev/console too
    console: bool


class SchedulerPlan(TypedDict):
    """What sched_setattr(2) is given."""

    policy: int
    flags: int
    nice: int
    priority: int
    #: in nanoseconds, as the two after it
    runtime: int
    deadline: int
    period: int


class MemoryPolicyPlan(TypedDict):
    """What set_mempolicy(2) is given."""

    #: MPOL_* with its flags
    mode: int
    #: a bit for each node
    nodes: int


class SchedulingPlan(TypedDict):
    """How the kernel treats the process; None: as it treats the runtime."""

    scheduler: SchedulerPlan | None
    #: the container is kept to some of the CPUs
    with_cpus: bool
    #: as ioprio_set(2) takes it
    io_priority: int | None
    personality: int | None
    memory_policy: MemoryPolicyPlan | None


class LabelPlan(TypedDict):
    """What the security modules and the keys of the process go by."""

    #: "": as the runtime is
    apparmor: str
    selinux: str
    #: name of its session keyring; "": the runtime's
    keyring: str
    #: the keyring has another owner than its processes are
    shared_keyring: bool


class ClaimPlan(TypedDict):
    """What is had from the host before a user namespace is entered."""

    #: (resource, soft, hard)
    rlimits: list[tuple[int, int, int]]
    oom_score_adj: int | None


class ProcessPlan(ClaimPlan):
    """The process that init becomes."""

    args: list[str]
    env: list[str]
    cwd: str
    uid: int
    gid: int
    additional_gids: list[int]
    umask: int
    capabilities: CapabilityPlan
    no_new_privileges: bool
    scheduling: SchedulingPlan | None
    labels: LabelPlan
    seccomp: SeccompPlan | None
    #: descriptors after the standard three that the process keeps
    preserve_fds: int
    #: what it gets when who has started it ends; 0: nothing
    parent_death_signal: int


class NamespacePlan(TypedDict):
    """The namespaces around the process."""

    #: (path, CLONE_NEW*), in the order in which they can be joined
    join: list[tuple[str, int]]
    #: CLONE_NEW* that init leaves before it forks
    unshare: int
    #: one of them, made or joined, is a user namespace
    user: bool
    #: CLONE_NEW* that its fork makes
    clone: int
    #: lines for /proc/self/timens_offsets
    time_offsets: str
    #: the network namespace is new: bring its loopback up
    loopback: bool


#: path, args, env, timeout: the fields of spec.model.Hook
HookPlan = tuple[str, tuple[str, ...], tuple[str, ...], int | None]


class InitPlan(TypedDict):
    """A new container, up to its process waiting at the exec fifo."""

    namespaces: NamespacePlan
    #: the runtime may more on the host than the container's root: a helper opens what is mounted
    usher: bool
    rootfs: RootfsPlan
    hostname: str
    domainname: str
    #: path below /proc/sys -> value
    sysctl: dict[str, str]
    create_container: list[HookPlan]
    start_container: list[HookPlan]
    #: the OCI state that those hooks read; its pid is filled in
    state: dict[str, Any]
    #: where init waits for `start`, and tells it what goes wrong
    exec_fifo: str
    #: it has a socket to say that it is ready (sd_notify(3))
    notify: bool
    #: where `start` answers init; "" when it has nothing to say
    answer_fifo: str
    #: while it waits, an ordinary user whose it is may look at it, and so `exec` into it
    traceable: bool
    #: None: the standard descriptors stay what they are
    terminal: TerminalPlan | None
    process: ProcessPlan


class ExecPlan(TypedDict):
    """A further process in a running container."""

    #: of the container's init, as a pidfd that this process has inherited
    pidfd: int
    #: CLONE_NEW* of the namespaces that differ from the runtime's
    namespaces: int
    #: whether it is to be no child of the runtime, which will not wait for it
    detach: bool
    terminal: TerminalPlan | None
    process: ProcessPlan


class TmpfsPlan(TypedDict):
    """A tmpfs of the container that the runtime fills, not CRIU."""

    #: of its directory
    name: str
    source: str
    #: "" for one without a value
    options: list[tuple[str, str]]


class ShownPlan(TypedDict):
    """What of the host criu finds on the shelf."""

    #: in its directory
    name: str
    source: str
    #: what in the source, "" for all of it
    below: str
    #: "": what the source shows, else a new filesystem
    fstype: str
    #: which of ShelfPlan.idmaps it has
    idmap: int | None


class ShelfPlan(TypedDict):
    """A tmpfs that criu alone sees, with what it needs."""

    #: hidden from criu by what is mounted there
    directory: str
    #: in octal digits
    mode: str
    tmpfs: list[TmpfsPlan]
    shown: list[ShownPlan]
    idmaps: list[IdMaps]


class RestorePlan(TypedDict):
    """The place in which criu restores a container."""

    #: of which path, propagation and mounts are looked at
    rootfs: RootfsPlan
    #: the container has a cgroup namespace of its own
    cgroup_namespace: bool
    #: nothing that criu is to find lies below /tmp
    private_tmp: bool
    #: what is restored may get huge pages at once; CRIU lets it later in any case
    huge_pages: bool
    shelf: ShelfPlan
    #: some mount of the container receives what is mounted on the host
    receives: bool
    #: None without a user namespace: CRIU sets it then
    claim: ClaimPlan | None
    #: of which the keyring counts: CRIU restores the rest
    labels: LabelPlan
    #: but for the scheduler, which CRIU restores
    scheduling: SchedulingPlan | None
