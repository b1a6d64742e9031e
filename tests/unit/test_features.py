"""What `features` says is what the runtime does: the reader of config.json is asked."""

import json
from typing import Any

import pytest

from migrator import cli
from runtime.cgroups import manager
from runtime.cgroups.systemd import SystemdV1, SystemdV2
from runtime.cgroups.unit_properties import of_annotations
from runtime.cgroups.v1 import V1Manager
from runtime.cgroups.v2 import V2Manager
from runtime.checkpoint.criu_config import criu_config
from runtime.errors import UnsupportedField
from runtime.features import features
from runtime.rootfs.mount_options import parse_options
from runtime.spec.reading import parse
from tests.bundles import merged, mount, spec

FEATURES = features()
LINUX = FEATURES["linux"]
IDS = [{"containerID": 0, "hostID": 0, "size": 1}]


def accept(**sections: Any) -> None:
    parse(merged(spec("true"), sections))


@pytest.mark.parametrize("end", ["ociVersionMin", "ociVersionMax"])
def test_both_versions_are_accepted(end: str) -> None:
    accept(ociVersion=FEATURES[end])


def test_each_hook_is_accepted() -> None:
    for name in FEATURES["hooks"]:
        accept(hooks={name: [{"path": "/bin/true"}]})
    assert len(FEATURES["hooks"]) == 6


def test_each_mount_option_is_carried_out_by_us_and_not_left_to_the_filesystem() -> None:
    for option in FEATURES["mountOptions"]:
        assert not parse_options([option]).data, option
        accept(mounts=[mount("/m", "tmpfs", option)])


@pytest.mark.parametrize("option", ["iversion"])
def test_no_mount_option_is_listed_that_is_refused(option: str) -> None:
    with pytest.raises(UnsupportedField):
        accept(mounts=[mount("/m", "tmpfs", option)])
    assert option not in FEATURES["mountOptions"]


def test_each_namespace_is_accepted_and_no_other_is_known() -> None:
    for kind in LINUX["namespaces"]:
        listed = {"mount": {"type": "mount"}, kind: {"type": kind}}
        ids = dict.fromkeys(("uidMappings", "gidMappings"), IDS if kind == "user" else [])
        accept(linux={"namespaces": list(listed.values()), **ids}, hostname="")
    for kind in {"mount", "pid", "network", "ipc", "uts", "cgroup", "time", "user"} - set(
        LINUX["namespaces"]
    ):
        with pytest.raises(UnsupportedField):
            accept(linux={"namespaces": [{"type": "mount"}, {"type": kind}]}, hostname="")


def test_each_capability_is_accepted() -> None:
    accept(process={"capabilities": {"bounding": LINUX["capabilities"]}})


@pytest.mark.parametrize(
    ("feature", "sections"),
    [
        ("seccomp", {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}),
        ("apparmor", {"process": {"apparmorProfile": "some"}}),
        ("selinux", {"process": {"selinuxLabel": "some"}}),
        ("intelRdt", {"linux": {"intelRdt": {"closID": "some"}}}),
        ("netDevices", {"linux": {"netDevices": {"eth0": {}}}}),
    ],
)
def test_a_feature_is_enabled_where_its_field_is_carried_out(
    feature: str, sections: dict[str, Any]
) -> None:
    if LINUX[feature]["enabled"]:
        accept(**sections)
    else:
        with pytest.raises(UnsupportedField):
            accept(**sections)


def test_each_word_of_seccomp_is_accepted() -> None:
    said = LINUX["seccomp"]
    argument = {"index": 0, "value": 1}
    calls = [
        {"names": ["read"], "action": action, "args": [argument | {"op": operator}]}
        for action in said["actions"]
        for operator in said["operators"]
    ]
    asked = {"architectures": said["archs"], "flags": said["supportedFlags"], "syscalls": calls}
    listener = {"listenerPath": "/agent"}
    accept(linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", **asked, **listener}})


def test_each_word_of_a_memory_policy_is_accepted() -> None:
    said = LINUX["memoryPolicy"]
    assert {"MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_BIND"} < set(said["modes"])
    for mode in said["modes"]:
        nodes = {} if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") else {"nodes": "0"}
        accept(linux={"memoryPolicy": {"mode": mode, "flags": said["flags"], **nodes}})


@pytest.mark.parametrize(
    ("feature", "field"),
    [("schemata", {"schemata": ["L3:0=f"]}), ("monitoring", {"enableMonitoring": True})],
)
def test_of_intel_rdt_is_said_what_is_carried_out(feature: str, field: dict[str, Any]) -> None:
    assert LINUX["intelRdt"][feature]
    accept(linux={"intelRdt": field})


def test_annotations_that_change_the_host_are_named() -> None:
    """One that ends in a dot is the beginning of any name (features.md)."""
    named = FEATURES["potentiallyUnsafeConfigAnnotations"]
    assert str(criu_config({})) != str(criu_config(dict.fromkeys(named, "/c")))
    (prefix,) = (each for each in named if each.endswith("."))
    assert of_annotations({f"{prefix}TimeoutStopUSec": "uint64 1"})


def test_both_versions_of_cgroups_have_a_manager() -> None:
    assert isinstance(manager("", paths={"": "/c"}), V2Manager)
    assert LINUX["cgroup"]["v2"]
    assert isinstance(manager("", paths={"pids": "/c"}), V1Manager)
    assert LINUX["cgroup"]["v1"]
    assert issubclass(SystemdV1, V1Manager)
    assert issubclass(SystemdV2, V2Manager)
    assert LINUX["cgroup"]["systemd"]
    assert LINUX["cgroup"]["systemdUser"]
    assert LINUX["cgroup"]["rdma"]


def test_the_command_prints_them_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["features"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["annotations"].pop("org.migrator.version")
    assert printed == json.loads(json.dumps(FEATURES))
