"""The one table of the fields of the OCI runtime-spec for Linux: what is carried out, what refused.

A field of the specification that is not in it would be skipped in silence: a test compares the
table with the specification's own list, another with docs/runtime.md.
"""

from __future__ import annotations

from runtime import namespaces
from runtime.constants import RLIMITS
from runtime.hook_points import HookName
from runtime.rootfs.mount_options import PROPAGATION
from runtime.seccomp.words import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS
from runtime.spec.fields_scheduling import (
    EXEC_CPU_AFFINITY,
    INTEL_RDT,
    IO_PRIORITY,
    MEMORY_POLICY,
    NET_DEVICE,
    PERSONALITY,
    SCHEDULER,
)
from runtime.spec.model import (
    Capabilities,
    ConsoleSize,
    Device,
    Hook,
    Hooks,
    IdMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Rlimit,
    Root,
    Spec,
    TimeOffset,
    User,
)
from runtime.spec.schema import (
    Array,
    Boolean,
    Choice,
    Dictionary,
    Integer,
    Record,
    Refused,
    Text,
)

_UINT16 = Integer(0, 2**16 - 1)
_UINT32 = Integer(0, 2**32 - 1)
_UINT64 = Integer(0, 2**64 - 1)
_INT64 = Integer(-(2**63), 2**63 - 1)
_MAJOR, _MINOR = Integer(0, 2**12 - 1), Integer(0, 2**20 - 1)
#: of a device rule: -1 means all
_NUMBER = Integer(-1, 2**32 - 1)
#: uid_t and gid_t, without the value that means "none"
_ID = Integer(0, 2**32 - 2)

_TEXT = Text()
_TEXTS = Array(_TEXT)
_NAME = Text("a name that is not empty", pattern=r".+")
_ABSOLUTE = Text("an absolute path", pattern=r"/.*")
_ABSOLUTES = Array(_ABSOLUTE)
_ENVIRONMENT = Array(Text("NAME=value", pattern=r"[^=]+=.*"))
_CPU_LIST = Text("a list as 0-3,7", pattern=r"[0-9,:/ -]*")

_ELSEWHERE = "means nothing on Linux"

_CAPABILITIES = Record(
    Capabilities,
    dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), _TEXTS),
)

_USER = Record(
    User,
    {
        "uid": _ID,
        "gid": _ID,
        "umask": Integer(0, 0o777),
        "additionalGids": Array(_ID),
        "username": Refused(_ELSEWHERE),
    },
)

PROCESS = Record(
    Process,
    {
        "args": Array(_TEXT, least=1),
        "cwd": _ABSOLUTE,
        "env": _ENVIRONMENT,
        "user": _USER,
        "capabilities": _CAPABILITIES,
        "rlimits": Array(
            Record(
                Rlimit,
                {
                    "type": Choice(*sorted(RLIMITS)),
                    "soft": _UINT64,
                    "hard": _UINT64,
                },
                required=("type", "soft", "hard"),
            )
        ),
        "noNewPrivileges": Boolean(),
        "oomScoreAdj": Integer(-1000, 1000),
        "terminal": Boolean(),
        "consoleSize": Record(
            ConsoleSize, {"height": _UINT64, "width": _UINT64}, required=("height", "width")
        ),
        "apparmorProfile": _TEXT,
        "selinuxLabel": _TEXT,
        "ioPriority": IO_PRIORITY,
        "scheduler": SCHEDULER,
        "execCPUAffinity": EXEC_CPU_AFFINITY,
        "commandLine": Refused(_ELSEWHERE),
    },
    required=("args", "cwd"),
)

_ID_MAPPINGS = Array(
    Record(
        IdMapping,
        {"containerID": _ID, "hostID": _ID, "size": Integer(1, 2**32 - 1)},
        required=("containerID", "hostID", "size"),
    )
)

_MOUNT = Record(
    Mount,
    {
        "destination": _NAME,
        "type": _TEXT,
        "source": _TEXT,
        "options": _TEXTS,
        "uidMappings": _ID_MAPPINGS,
        "gidMappings": _ID_MAPPINGS,
    },
    required=("destination",),
)

_HOOK = Record(
    Hook,
    {
        "path": _ABSOLUTE,
        "args": _TEXTS,
        "env": _ENVIRONMENT,
        "timeout": Integer(1, 2**31 - 1),
    },
    required=("path",),
)

_DEVICE_RULE = Record(
    dict,
    {
        "allow": Boolean(),
        "type": Choice("a", "b", "c", ""),
        "major": _NUMBER,
        "minor": _NUMBER,
        # runc reads every letter; those without a meaning are dropped (runtime/cgroups/devices.py).
        "access": Text("letters of rwm", pattern=r"[rwma]{1,4}"),
    },
    required=("allow", "access"),
)

_THROTTLE = Array(
    Record(
        dict,
        {"major": _MAJOR, "minor": _MINOR, "rate": _UINT64},
        required=("major", "minor", "rate"),
    )
)

RESOURCES = Record(
    dict,
    {
        "devices": Array(_DEVICE_RULE),
        "memory": Record(
            dict,
            {
                "limit": _INT64,
                "reservation": _INT64,
                "swap": _INT64,
                "kernelTCP": _INT64,
                "swappiness": Integer(0, 200),
                "disableOOMKiller": Boolean(),
                "checkBeforeUpdate": Boolean(),
                "useHierarchy": Refused(
                    "kernels since 5.11 always account hierarchically", harmless=(True,)
                ),
                "kernel": Refused("the kernel has no such limit any more", harmless=(-1, 0)),
            },
        ),
        "cpu": Record(
            dict,
            {
                "shares": _UINT64,
                "quota": _INT64,
                "burst": _UINT64,
                "period": _UINT64,
                "realtimeRuntime": _INT64,
                "realtimePeriod": _UINT64,
                "cpus": _CPU_LIST,
                "mems": _CPU_LIST,
                "idle": Integer(0, 1),
            },
        ),
        "pids": Record(dict, {"limit": _INT64}),
        "blockIO": Record(
            dict,
            {
                "weight": _UINT16,
                "leafWeight": _UINT16,
                "weightDevice": Array(
                    Record(
                        dict,
                        {
                            "major": _MAJOR,
                            "minor": _MINOR,
                            "weight": _UINT16,
                            "leafWeight": _UINT16,
                        },
                        required=("major", "minor"),
                    )
                ),
                "throttleReadBpsDevice": _THROTTLE,
                "throttleWriteBpsDevice": _THROTTLE,
                "throttleReadIOPSDevice": _THROTTLE,
                "throttleWriteIOPSDevice": _THROTTLE,
            },
        ),
        "hugepageLimits": Array(
            Record(
                dict,
                {
                    "pageSize": Text("a size as 2MB", pattern=r"[1-9]\d*[KMG]B"),
                    "limit": _UINT64,
                },
                required=("pageSize", "limit"),
            )
        ),
        "network": Record(
            dict,
            {
                "classID": _UINT32,
                "priorities": Array(
                    Record(
                        dict,
                        {"name": _NAME, "priority": _UINT32},
                        required=("name", "priority"),
                    )
                ),
            },
        ),
        "rdma": Dictionary(Record(dict, {"hcaHandles": _UINT32, "hcaObjects": _UINT32})),
        "unified": Dictionary(_TEXT),
    },
)

_ERRNO = Integer(0, 4095)  # MAX_ERRNO of linux/err.h

_SECCOMP = Record(
    dict,
    {
        "defaultAction": Choice(*ACTIONS),
        "defaultErrnoRet": _ERRNO,
        "architectures": Array(Choice(*ARCHITECTURES)),
        "flags": Array(Choice(*FLAGS)),
        "listenerPath": _ABSOLUTE,
        "listenerMetadata": _TEXT,
        "syscalls": Array(
            Record(
                dict,
                {
                    "names": Array(_NAME, least=1),
                    "action": Choice(*ACTIONS),
                    "errnoRet": _ERRNO,
                    "args": Array(
                        Record(
                            dict,
                            {
                                "index": Integer(0, 5),
                                "value": _UINT64,
                                "valueTwo": _UINT64,
                                "op": Choice(*OPERATORS),
                            },
                            required=("index", "value", "op"),
                        )
                    ),
                },
                required=("names", "action"),
            )
        ),
    },
    required=("defaultAction",),
)

NAMESPACE_TYPE = Choice(*namespaces.KINDS)

_TIME_OFFSET = Record(TimeOffset, {"secs": _INT64, "nanosecs": Integer(0, 999_999_999)})

_LINUX = Record(
    Linux,
    {
        "namespaces": Array(
            Record(
                Namespace,
                {
                    "type": NAMESPACE_TYPE,
                    "path": Text("an absolute path", pattern=r"(/.*)?"),
                },
                required=("type",),
            )
        ),
        "timeOffsets": Record(dict, {"monotonic": _TIME_OFFSET, "boottime": _TIME_OFFSET}),
        "devices": Array(
            Record(
                Device,
                {
                    "type": Choice("c", "b", "u", "p"),
                    "path": _ABSOLUTE,
                    "major": _MAJOR,
                    "minor": _MINOR,
                    "fileMode": _UINT32,
                    "uid": _ID,
                    "gid": _ID,
                },
                required=("type", "path"),
            )
        ),
        "cgroupsPath": _TEXT,
        "resources": RESOURCES,
        "sysctl": Dictionary(_TEXT),
        "rootfsPropagation": Choice(*PROPAGATION, ""),
        "maskedPaths": _ABSOLUTES,
        "readonlyPaths": _ABSOLUTES,
        "uidMappings": _ID_MAPPINGS,
        "gidMappings": _ID_MAPPINGS,
        "seccomp": _SECCOMP,
        "mountLabel": _TEXT,
        "intelRdt": INTEL_RDT,
        "personality": PERSONALITY,
        "netDevices": Dictionary(NET_DEVICE),
        "memoryPolicy": MEMORY_POLICY,
    },
)

SPEC = Record(
    Spec,
    {
        "ociVersion": Text("a version as 1.2.0", pattern=r"\d+\.\d+\.\d+([-+].+)?"),
        "root": Record(Root, {"path": _NAME, "readonly": Boolean()}, required=("path",)),
        "process": PROCESS,
        "hostname": Text("at most 64 characters", pattern=r".{0,64}"),
        "domainname": Text("at most 64 characters", pattern=r".{0,64}"),
        "mounts": Array(_MOUNT),
        "hooks": Record(Hooks, dict.fromkeys(map(str, HookName), Array(_HOOK))),
        "annotations": Dictionary(_TEXT),
        "linux": _LINUX,
        "vm": Refused("virtual machines are not supported"),
        **dict.fromkeys(("windows", "solaris", "zos", "freebsd"), Refused(_ELSEWHERE)),
    },
    required=("ociVersion", "root", "process"),
)
