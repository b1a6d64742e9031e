"""The table of fields: complete against the specification, and what the documentation says."""

import inspect
from pathlib import Path

import pytest

from runtime.spec.fields import SPEC
from runtime.spec.schema import Array, Dictionary, Kind, Record, Refused, entries
from tools.spec_table import BEGIN, END, table

DOCUMENT = Path(__file__).parents[2] / "docs/runtime.md"

# All that OCI runtime-spec 1.2.1 has for Linux (config.md, config-linux.md), and what 1.3 added.
SPECIFIED = """
.: ociVersion hostname domainname annotations vm windows solaris zos freebsd
root: path readonly
mounts[]: destination source type options
mounts[].uidMappings[]: containerID hostID size
mounts[].gidMappings[]: containerID hostID size
process: terminal cwd env args commandLine apparmorProfile noNewPrivileges oomScoreAdj
process: selinuxLabel
process.scheduler: policy nice priority flags runtime deadline period
process.ioPriority: class priority
process.execCPUAffinity: initial final
process.consoleSize: height width
process.rlimits[]: type soft hard
process.capabilities: effective bounding inheritable permitted ambient
process.user: uid gid umask additionalGids username
hooks.prestart[]: path args env timeout
hooks.createRuntime[]: path args env timeout
hooks.createContainer[]: path args env timeout
hooks.startContainer[]: path args env timeout
hooks.poststart[]: path args env timeout
hooks.poststop[]: path args env timeout
linux: cgroupsPath rootfsPropagation sysctl maskedPaths
linux: readonlyPaths mountLabel
linux.intelRdt: closID schemata l3CacheSchema memBwSchema enableCMT enableMBM enableMonitoring
linux.netDevices.*: name
linux.personality: domain flags
linux.memoryPolicy: mode nodes flags
linux.namespaces[]: type path
linux.seccomp: defaultAction defaultErrnoRet architectures flags listenerPath listenerMetadata
linux.seccomp.syscalls[]: names action errnoRet
linux.seccomp.syscalls[].args[]: index value valueTwo op
linux.timeOffsets.monotonic: secs nanosecs
linux.timeOffsets.boottime: secs nanosecs
linux.devices[]: type path major minor fileMode uid gid
linux.uidMappings[]: containerID hostID size
linux.gidMappings[]: containerID hostID size
linux.resources: unified
linux.resources.devices[]: allow type major minor access
linux.resources.memory: limit reservation swap kernel kernelTCP swappiness disableOOMKiller
linux.resources.memory: useHierarchy checkBeforeUpdate
linux.resources.cpu: shares quota burst period realtimeRuntime realtimePeriod cpus mems idle
linux.resources.pids: limit
linux.resources.blockIO: weight leafWeight
linux.resources.blockIO.weightDevice[]: major minor weight leafWeight
linux.resources.blockIO.throttleReadBpsDevice[]: major minor rate
linux.resources.blockIO.throttleWriteBpsDevice[]: major minor rate
linux.resources.blockIO.throttleReadIOPSDevice[]: major minor rate
linux.resources.blockIO.throttleWriteIOPSDevice[]: major minor rate
linux.resources.hugepageLimits[]: pageSize limit
linux.resources.network: classID
linux.resources.network.priorities[]: name priority
linux.resources.rdma.*: hcaHandles hcaObjects
"""


def specified() -> set[str]:
    lines = (line.partition(": ") for line in SPECIFIED.strip().splitlines())
    return {f"{parent}.{name}".lstrip(".") for parent, _, names in lines for name in names.split()}


def test_the_table_knows_every_field_of_the_specification() -> None:
    assert {entry.path for entry in entries(SPEC)} == specified()


def fields_and_makers(kind: Kind, path: str = "") -> list[tuple[str, Record]]:
    if isinstance(kind, Array | Dictionary):
        return fields_and_makers(kind.item, path)
    if not isinstance(kind, Record):
        return []
    below = [found for key, each in kind.fields.items() for found in fields_and_makers(each, key)]
    return [(path, kind), *below]


def test_every_field_that_is_carried_out_has_a_place_in_its_class() -> None:
    for _, record in fields_and_makers(SPEC):
        if record.make is not dict:
            kept = {record.name_of(key) for key in record.fields if record.is_kept(key)}
            assert kept <= set(inspect.signature(record.make).parameters)


def test_no_field_is_required_and_refused() -> None:
    for path, record in fields_and_makers(SPEC):
        for key in record.required:
            assert not isinstance(record.fields[key], Refused), f"{path}.{key}"


@pytest.mark.parametrize("part", [BEGIN, END])
def test_the_document_has_the_marks_of_the_table(part: str) -> None:
    assert DOCUMENT.read_text().count(part) == 1


def test_the_document_has_the_table_as_it_is() -> None:
    _, _, rest = DOCUMENT.read_text().partition(BEGIN)
    assert rest.partition(END)[0].strip() == table().strip(), "run tools/spec_table.py"
