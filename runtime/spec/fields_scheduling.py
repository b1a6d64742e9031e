"""How the kernel treats processes and network devices: a part of the table in fields.py."""

from __future__ import annotations

from runtime.scheduling import (
    FLAGS,
    IO_CLASSES,
    MEMORY_FLAGS,
    MEMORY_MODES,
    PERSONALITIES,
    POLICIES,
)
from runtime.spec.schema import Array, Boolean, Choice, Integer, Numbers, Record, Refused, Text

_UINT64 = Integer(0, 2**64 - 1)
#: CONFIG_NR_CPUS and MAX_NUMNODES are below it everywhere
_HIGHEST = 8191

SCHEDULER = Record(
    dict,
    {
        "policy": Choice(*POLICIES),
        "nice": Integer(-20, 19),
        "priority": Integer(0, 99),
        "flags": Array(Choice(*FLAGS)),
        "runtime": _UINT64,
        "deadline": _UINT64,
        "period": _UINT64,
    },
    required=("policy",),
)

IO_PRIORITY = Record(
    dict, {"class": Choice(*IO_CLASSES), "priority": Integer(0, 7)}, required=("class",)
)

_CPUS = Numbers(_HIGHEST, called="list of CPUs")
EXEC_CPU_AFFINITY = Record(dict, {"initial": _CPUS, "final": _CPUS})

PERSONALITY = Record(
    dict,
    {
        "domain": Choice(*PERSONALITIES),
        "flags": Refused("the specification defines no flag yet"),
    },
    required=("domain",),
)

MEMORY_POLICY = Record(
    dict,
    {
        "mode": Choice(*MEMORY_MODES, called="memory policy mode"),
        "nodes": Numbers(_HIGHEST, called="memory policy nodes"),
        "flags": Array(Choice(*MEMORY_FLAGS, called="memory policy flag")),
    },
    required=("mode",),
)

INTEL_RDT = Record(
    dict,
    {
        "closID": Text("the name of a group", pattern=r"/|(?!\.\.?$)[^/]+"),
        "schemata": Array(Text("a line as L3:0=ff", pattern=r"[^\n]+")),
        "l3CacheSchema": Text("one line", pattern=r"[^\n]*"),
        "memBwSchema": Text("one line", pattern=r"[^\n]*"),
        "enableMonitoring": Boolean(),
        **dict.fromkeys(
            ("enableCMT", "enableMBM"), Refused("enableMonitoring has taken its place")
        ),
    },
)

#: dev_valid_name() of the kernel
_INTERFACE = Text("the name of a network interface", pattern=r"(?!\.\.?$)[^\s/:]{1,15}")
NET_DEVICE = Record(dict, {"name": _INTERFACE})
