"""config.json and process.json: what is read, every fault with its path, what is refused."""

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import BundleError, InvalidSpec, UnsupportedField
from runtime.spec import reading
from runtime.spec.default import default_spec
from runtime.spec.model import Device, Hook, Mount, Namespace, Rlimit, TimeOffset

Json = dict[str, Any]

MINIMAL: Json = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "process": {"args": ["sh"], "cwd": "/"},
    "linux": {"namespaces": [{"type": "mount"}]},
}
ABSENT = object()

# A busy machine is no fault of the code.
PATIENT = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

IDS = {"containerID": 0, "hostID": 1, "size": 1}


def changed(path: str, value: Any, base: Json = MINIMAL) -> Json:
    """*base* with *value* at the dotted *path* (ABSENT removes it)."""
    result = copy.deepcopy(base)
    *parents, last = path.split(".")
    at = result
    for name in parents:
        at = at.setdefault(name, {})
    if value is ABSENT:
        del at[last]
    else:
        at[last] = value
    return result


def faults(data: Any) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        reading.parse(data, Path("config.json"))
    return [str(fault) for fault in caught.value.faults]


def test_keys_are_read_in_any_case_as_other_runtimes_do() -> None:
    pages = [{"pagesize": "2MB", "limit": 1}]
    limits = {"cpu": {"quota": 5, "cpus": "1"}, "CPU": {"Cpus": "0"}, "hugepageLimits": pages}
    read = reading.parse(changed("linux.resources", limits))
    assert read.linux.resources["cpu"] == {"quota": 5, "cpus": "0"}
    assert read.linux.resources["hugepageLimits"] == ({"pageSize": "2MB", "limit": 1},)
    assert read.raw["linux"]["resources"]["cpu"] == {"quota": 5, "cpus": "0"}


def test_names_that_the_writer_chose_keep_their_case() -> None:
    read = reading.parse(changed("annotations", {"A": "1", "a": "2"}))
    assert read.raw["annotations"] == {"A": "1", "a": "2"}


def test_absent_fields_mean_their_defaults() -> None:
    read = reading.parse(MINIMAL)
    assert read.process.env == ()
    assert read.process.user == (0, 0, None, ())
    assert read.process.capabilities.bounding == ()
    assert read.process.oom_score_adj is None
    assert not read.process.no_new_privileges
    assert not read.root.readonly
    assert read.hostname == ""
    assert read.mounts == ()
    assert read.annotations == {}
    assert read.linux.resources == {}
    assert read.raw == MINIMAL


def test_null_counts_as_absent() -> None:
    data = changed("process.env", None) | {"hooks": None, "hostname": None}
    assert reading.parse(data).process.env == ()


def test_every_field_arrives() -> None:
    data = {
        "ociVersion": "1.2.0",
        "root": {"path": "/r", "readonly": True},
        "hostname": "h",
        "domainname": "d",
        "annotations": {"a.b": ""},
        "process": {
            "args": ["a", "b"],
            "cwd": "/w",
            "env": ["A=1", "B="],
            "user": {"uid": 1, "gid": 2, "umask": 0o22, "additionalGids": [3]},
            "capabilities": {"bounding": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
            "noNewPrivileges": True,
            "oomScoreAdj": -5,
            "terminal": True,
            "consoleSize": {"height": 1, "width": 2},
        },
        "mounts": [{"destination": "/m", "type": "tmpfs", "source": "t", "options": ["ro"]}],
        "hooks": {"poststop": [{"path": "/h", "args": ["h"], "env": ["X=y"], "timeout": 3}]},
        "linux": {
            "namespaces": [
                {"type": "mount"},
                {"type": "network", "path": "/n"},
                {"type": "time"},
                {"type": "uts"},
            ],
            "timeOffsets": {"monotonic": {"secs": -1, "nanosecs": 2}},
            "devices": [
                {"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20600},
                {"path": "/dev/f", "type": "p", "uid": 1, "gid": 2},
            ],
            "cgroupsPath": "/c",
            "resources": {"memory": {"limit": 5}, "devices": [{"allow": False, "access": "rwm"}]},
            "sysctl": {"net.core.somaxconn": "7"},
            "rootfsPropagation": "rslave",
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    }
    read = reading.parse(data)
    assert read.root == ("/r", True)
    assert (read.hostname, read.domainname, read.annotations) == ("h", "d", {"a.b": ""})
    assert (read.process.args, read.process.cwd, read.process.env) == (
        ("a", "b"),
        "/w",
        ("A=1", "B="),
    )
    assert read.process.user == (1, 2, 0o22, (3,))
    assert read.process.capabilities.ambient == ("CAP_KILL",)
    assert read.process.rlimits == (Rlimit("RLIMIT_NOFILE", 1, 2),)
    assert (read.process.no_new_privileges, read.process.oom_score_adj) == (True, -5)
    assert (read.process.terminal, read.process.console_size) == (True, (1, 2))
    assert read.mounts == (Mount("/m", "tmpfs", "t", ("ro",)),)
    assert read.hooks.poststop == (Hook("/h", ("h",), ("X=y",), 3),)
    linux = read.linux
    assert linux.namespace("network") == Namespace("network", "/n")
    assert linux.namespace("pid") is None
    assert linux.time_offsets == {"monotonic": TimeOffset(-1, 2)}
    assert linux.devices == (
        Device("c", "/dev/x", 1, 3, 0o20600),
        Device("p", "/dev/f", uid=1, gid=2),
    )
    assert linux.cgroups_path == "/c"
    assert linux.resources["memory"] == {"limit": 5}
    assert linux.sysctl == {"net.core.somaxconn": "7"}
    assert linux.rootfs_propagation == "rslave"
    assert (linux.masked_paths, linux.readonly_paths) == (("/proc/kcore",), ("/proc/sys",))


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("ociVersion", ABSENT, "ociVersion: missing, and required"),
        ("ociVersion", 1.2, "ociVersion: expected a version as 1.2.0, found a number with a frac"),
        ("ociVersion", "1.2", "ociVersion: expected a version as 1.2.0, found a string: '1.2'"),
        ("ociVersion", "2.0.0", "ociVersion: expected a version 1, found 2.0.0"),
        ("root", ABSENT, "root: missing"),
        ("root", "rootfs", "root: expected an object, found a string"),
        ("root.path", ABSENT, "root.path: missing"),
        ("root.path", "", "root.path: expected a name that is not empty"),
        ("root.path", "a\0b", "root.path: has a character that cannot be passed to the kernel"),
        ("root.path", "\ud800", "root.path: has a character that cannot be passed to the kernel"),
        ("root.readonly", "yes", "root.readonly: expected true or false, found a string: 'yes'"),
        ("process", ABSENT, "process: missing"),
        ("process.args", ABSENT, "process.args: missing"),
        ("process.args", [], "process.args: expected at least 1 item"),
        ("process.args", "sh", "process.args: expected an array, found a string: 'sh'"),
        ("process.args", ["sh", None], "process.args[1]: expected a string, found null"),
        ("process.cwd", ABSENT, "process.cwd: missing"),
        ("process.cwd", "tmp", "process.cwd: expected an absolute path, found a string: 'tmp'"),
        ("process.env", ["PATH"], "process.env[0]: expected NAME=value, found a string: 'PATH'"),
        ("process.env", ["=x"], "process.env[0]: expected NAME=value"),
        ("process.user", 0, "process.user: expected an object, found a number: 0"),
        ("process.user.uid", -1, "process.user.uid: expected a whole number from 0 to 4294967294"),
        ("process.user.gid", True, "process.user.gid: expected a whole number"),
        ("process.user.umask", 0o1000, "process.user.umask: expected a whole number from 0 to 511"),
        ("process.user.additionalGids", [1, "2"], "process.user.additionalGids[1]: expected a wh"),
        ("process.terminal", 1, "process.terminal: expected true or false"),
        ("process.consoleSize", {"height": 1}, "process.consoleSize.width: missing, and required"),
        ("process.capabilities", ["CAP_KILL"], "process.capabilities: expected an object"),
        ("process.capabilities.bounding", [1], "process.capabilities.bounding[0]: expected a str"),
        (
            "process.rlimits",
            [{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}],
            "process.rlimits[0].type: expected one of RLIMIT_AS, ",
        ),
        (
            "process.rlimits",
            [{"type": "RLIMIT_CPU", "soft": 1}],
            "process.rlimits[0].hard: missing, and required",
        ),
        (
            "process.rlimits",
            [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}],
            "process.rlimits[0].soft: RLIMIT_CPU: 2 is above the hard limit 1",
        ),
        (
            "process.rlimits",
            2 * [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}],
            "process.rlimits: has RLIMIT_CPU more than once",
        ),
        ("process.noNewPrivileges", 1, "process.noNewPrivileges: expected true or false"),
        ("process.oomScoreAdj", 1001, "process.oomScoreAdj: expected a whole number from -1000 to"),
        ("hostname", "h", "hostname: would change the host's: the container has no uts namespace"),
        ("domainname", "d", "domainname: would change the host's"),
        ("mounts", [{"type": "tmpfs"}], "mounts[0].destination: missing"),
        ("mounts", [{"destination": ""}], "mounts[0].destination: expected a name that is not"),
        ("mounts", {}, "mounts: expected an array, found an object"),
        ("hooks.poststop", [{"path": "h"}], "hooks.poststop[0].path: expected an absolute path"),
        ("hooks.prestart", [{"args": ["h"]}], "hooks.prestart[0].path: missing"),
        ("hooks.prestart", [{"path": "/h", "timeout": 0}], "hooks.prestart[0].timeout: expected a"),
        ("annotations", {"": "x"}, "annotations: has an empty key"),
        ("annotations", {"a b": 1}, "annotations['a b']: expected a string, found a number: 1"),
        ("linux.namespaces", [{"type": "mnt"}], "linux.namespaces[0].type: expected one of"),
        ("linux.namespaces", [{"path": "/x"}], "linux.namespaces[0].type: missing"),
        (
            "linux.namespaces",
            [{"type": "mount"}, {"type": "pid"}, {"type": "pid", "path": "/p"}],
            "linux.namespaces: has type pid more than once",
        ),
        ("linux.gidMappings", 2 * [IDS], "linux.gidMappings: the container has no user namespace"),
        ("linux.uidMappings", [IDS | {"size": 0}], "linux.uidMappings[0].size: expected a whole"),
        (
            "linux.namespaces",
            [{"type": "mount"}, {"type": "pid", "path": "proc/1/ns/pid"}],
            "linux.namespaces[1].path: expected an absolute path",
        ),
        (
            "linux.timeOffsets",
            {"monotonic": {"secs": 1}},
            "linux.timeOffsets: needs a time namespace without path",
        ),
        (
            "linux.timeOffsets",
            {"boottime": {"nanosecs": 10**9}},
            "linux.timeOffsets.boottime.nanosecs: expected a whole number from 0 to 999999999",
        ),
        ("linux.devices", [{"type": "c", "path": "/d", "minor": 1}], "linux.devices[0].major: "),
        ("linux.devices", [{"type": "x", "path": "/d"}], "linux.devices[0].type: expected one of"),
        ("linux.devices", [{"type": "p", "path": "d"}], "linux.devices[0].path: expected an abso"),
        ("linux.devices", 2 * [{"type": "p", "path": "/d"}], "linux.devices: has /d more than on"),
        ("linux.cgroupsPath", "/", "linux.cgroupsPath: must lead to a cgroup below the root"),
        ("linux.cgroupsPath", "a/../b", "linux.cgroupsPath: must lead to a cgroup below the root"),
        ("linux.sysctl", {"kernel.panic": "1"}, "linux.sysctl['kernel.panic']: would change the h"),
        ("linux.sysctl", {"net.x.y": "1"}, "linux.sysctl['net.x.y']: would change the host: the c"),
        ("linux.rootfsPropagation", "loud", "linux.rootfsPropagation: expected one of private"),
        ("linux.maskedPaths", ["proc"], "linux.maskedPaths[0]: expected an absolute path"),
        ("linux.readonlyPaths", [1], "linux.readonlyPaths[0]: expected an absolute path, found a "),
        ("linux.resources.devices", [{"access": "rwm"}], "linux.resources.devices[0].allow: missi"),
        ("linux.resources.devices", [{"allow": True}], "linux.resources.devices[0].access: missin"),
        (
            "linux.resources.devices",
            [{"allow": True, "access": "x"}],
            "linux.resources.devices[0].access: expected letters of rwm, found a string: 'x'",
        ),
        ("linux.resources.memory.limit", "1g", "linux.resources.memory.limit: expected a whole nu"),
        ("linux.resources.memory.swap", 5, "linux.resources.memory.swap: needs a memory limit bes"),
        (
            "linux.resources.memory",
            {"limit": 6, "swap": 5},
            "linux.resources.memory.swap: counts memory and swap together, and is below the memor",
        ),
        (
            "linux.resources.cpu",
            {"quota": 5, "burst": 6},
            "linux.resources.cpu.burst: is above the quota 5",
        ),
        ("linux.resources.cpu.cpus", "0;1", "linux.resources.cpu.cpus: expected a list as 0-3,7"),
        ("linux.resources.pids.limit", 1.5, "linux.resources.pids.limit: expected a whole number"),
        (
            "linux.resources.hugepageLimits",
            [{"pageSize": "2 MB", "limit": 1}],
            "linux.resources.hugepageLimits[0].pageSize: expected a size as 2MB",
        ),
        (
            "linux.resources.unified",
            {"../x": "1"},
            "linux.resources.unified['../x']: is not the name of a cgroup file",
        ),
        (
            "linux.resources.rdma",
            {"mlx5_1": {}},
            "linux.resources.rdma.mlx5_1: needs hcaHandles or hcaObjects",
        ),
        (
            "linux.resources.blockIO.weightDevice",
            [{"major": 8, "minor": 0}],
            "linux.resources.blockIO.weightDevice[0]: needs weight or leafWeight",
        ),
        (
            "linux.resources.blockIO.throttleReadBpsDevice",
            [{"major": 8, "minor": 0}],
            "linux.resources.blockIO.throttleReadBpsDevice[0].rate: missing",
        ),
    ],
)
def test_a_fault_is_told_with_its_path(path: str, value: Any, fault: str) -> None:
    (told,) = faults(changed(path, value))
    assert told.startswith(fault)


@pytest.mark.parametrize("data", [None, [], "x", 1, True])
def test_a_document_that_is_no_object_is_refused(data: Any) -> None:
    assert faults(data)[0].startswith("expected an object, found ")


def test_a_window_has_a_size_that_a_terminal_can_have_or_there_is_none() -> None:
    size = {"height": 2**16, "width": 2**16 - 1}
    data = changed("process.consoleSize", size)
    assert reading.parse(data).process.console_size == (2**16, 2**16 - 1)
    data["process"]["terminal"] = True
    assert faults(data) == [
        "process.consoleSize.height: 65536 is more than a terminal can have, 65535"
    ]


def test_a_new_user_namespace_needs_maps() -> None:
    namespaces = [{"type": "mount"}, {"type": "user"}]
    assert faults(changed("linux.namespaces", namespaces)) == [
        "linux.uidMappings: missing, and required by a new user namespace",
        "linux.gidMappings: missing, and required by a new user namespace",
    ]


def test_all_faults_are_told_at_once() -> None:
    data = changed("process.args", []) | {"mounts": [{}, {"destination": 1}], "hostname": 5}
    assert faults(data) == [
        "process.args: expected at least 1 item",
        "mounts[0].destination: missing, and required",
        "mounts[1].destination: expected a name that is not empty, found a number: 1",
        "hostname: expected at most 64 characters, found a number: 5",
    ]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("process.commandLine", "cmd", "process.commandLine"),
        ("process.user.username", "me", "process.user.username"),
        ("mounts", [{"destination": "/a", "options": ["iversion"]}], "mounts[0].options"),
        ("linux.intelRdt", {"enableCMT": True}, "linux.intelRdt.enableCMT"),
        (
            "linux.personality",
            {"domain": "LINUX32", "flags": ["X"]},
            "linux.personality.flags",
        ),
        ("linux.resources.memory.kernel", 5, "linux.resources.memory.kernel"),
        ("vm", {"kernel": {}}, "vm"),
        ("windows", {"x": 1}, "windows"),
        ("solaris", {"x": 1}, "solaris"),
        ("zos", {"x": 1}, "zos"),
        ("freebsd", {"x": 1}, "freebsd"),
    ],
)
def test_what_is_not_carried_out_is_refused_by_name(path: str, value: Any, named: str) -> None:
    with pytest.raises(UnsupportedField) as caught:
        reading.parse(changed(path, value))
    assert [fault.json_path for fault in caught.value.faults] == [named]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("process.apparmorProfile", "unconfined"),
        ("process.apparmorProfile", ""),
        ("process.selinuxLabel", ""),
        ("linux.uidMappings", []),
        ("linux.seccomp", None),
        ("linux.mountLabel", ""),
        ("linux.intelRdt", {}),
        ("linux.resources.memory.kernel", -1),
        ("linux.resources.memory.useHierarchy", True),
        ("windows", None),
    ],
)
def test_a_value_that_asks_for_nothing_is_accepted(path: str, value: Any) -> None:
    reading.parse(changed(path, value))


def test_unsupported_fields_are_told_beside_malformed_ones() -> None:
    data = changed("process.commandLine", "a b c") | {"mounts": 1}
    assert len(faults(data)) == 2


def test_a_field_that_is_not_of_the_specification_is_ignored_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "runtime")
    reading.parse(changed("process.colour", {"a": [1]}))
    assert "field process.colour is not of the specification: ignored" in caplog.text


@pytest.mark.parametrize("movable", [False, True])
def test_the_default_spec_is_sound(movable: bool) -> None:
    read = reading.parse(json.loads(json.dumps(default_spec(movable=movable))))
    assert read.process.args == ("sh",)
    assert read.process.terminal is not movable
    assert read.linux.namespace("time") == (Namespace("time") if movable else None)
    assert read.linux.namespace("user") is None


class TestFiles:
    def bundle(self, path: Path, text: str | bytes) -> Path:
        (path / "rootfs").mkdir()
        (path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def test_a_bundle_is_read(self, tmp_path: Path) -> None:
        bundle = self.bundle(tmp_path, json.dumps(MINIMAL))
        assert reading.load(bundle).rootfs(bundle) == tmp_path / "rootfs"

    def test_a_bundle_that_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="/none: no such directory"):
            reading.load(tmp_path / "none")

    def test_a_missing_config_names_the_command_that_writes_one(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"has no config\.json \(`migrator spec`"):
            reading.load(tmp_path)

    def test_a_missing_rootfs_is_named(self, tmp_path: Path) -> None:
        bundle = self.bundle(tmp_path, json.dumps(MINIMAL))
        (bundle / "rootfs").rmdir()
        with pytest.raises(BundleError, match=r"rootfs .*/rootfs is not a directory"):
            reading.load(bundle)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "not valid JSON: Expecting value: line 1 column 1"),
            ('{"a": }', "not valid JSON: Expecting value: line 1 column 7"),
            ('{"a": NaN}', "not valid JSON: NaN is no JSON number"),
            (b"\xff\xfe", "not valid JSON: 'utf-8' codec"),
            (100_000 * "[", "not valid JSON: nested too deeply"),
            (f'{{"a": {10_000 * "1"}}}', "not valid JSON: Exceeds the limit"),
        ],
    )
    def test_malformed_json_is_told(self, tmp_path: Path, text: str | bytes, why: str) -> None:
        with pytest.raises(InvalidSpec) as caught:
            reading.load(self.bundle(tmp_path, text))
        assert str(caught.value).startswith(f"{tmp_path}/config.json: {why}")

    def test_a_config_that_cannot_be_read_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").mkdir()
        with pytest.raises(InvalidSpec, match="cannot be read: Is a directory"):
            reading.load(tmp_path)

    def test_a_process_is_read_for_exec(self, tmp_path: Path) -> None:
        path = tmp_path / "process.json"
        path.write_text(json.dumps({"args": ["ls"], "cwd": "/", "user": {"uid": 7}}))
        assert reading.load_process(path).user.uid == 7

    def test_what_it_names_in_another_case_is_not_the_containers(self, tmp_path: Path) -> None:
        path = tmp_path / "process.json"
        own = {"Capabilities": {"bounding": ["CAP_KILL"]}, "ApparmorProfile": "strict"}
        path.write_text(json.dumps({"args": ["id"], "cwd": "/", "OOMScoreAdj": 5} | own))
        admin = {name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective")}
        base = {"capabilities": admin, "apparmorProfile": "base", "oomScoreAdj": -9}
        read = reading.load_process(path, base)
        assert (read.capabilities.bounding, read.capabilities.effective) == (("CAP_KILL",), ())
        assert (read.apparmor_profile, read.oom_score_adj) == ("strict", 5)

    def test_faults_of_a_process_have_paths_of_its_own(self, tmp_path: Path) -> None:
        path = tmp_path / "process.json"
        path.write_text(json.dumps({"args": [], "rlimits": 2 * [{}], "commandLine": "x"}))
        with pytest.raises(InvalidSpec) as caught:
            reading.load_process(path)
        told = [fault.json_path for fault in caught.value.faults]
        assert told[:3] == ["cwd", "args", "rlimits[0].type"]
        assert told[-1] == "commandLine"


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [path, *(place for key in keys for place in places(value[key], (*path, key)))]


FULL = default_spec() | {
    "hooks": {"poststop": [{"path": "/h", "timeout": 3}]},
    "annotations": {"a": "b"},
}


@PATIENT
@given(st.sampled_from(places(FULL)[1:]), VALUES)
def test_any_value_anywhere_is_read_or_refused(place: tuple[Any, ...], value: Any) -> None:
    data = copy.deepcopy(FULL)
    at: Any = data
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with suppress(InvalidSpec):
        reading.parse(data)


@PATIENT
@given(VALUES)
def test_resources_of_any_form_are_read_or_refused(value: Any) -> None:
    with suppress(InvalidSpec):
        reading.parse_resources(value, Path("r.json"))
