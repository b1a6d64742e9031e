"""linux.seccomp: what is refused, and what becomes of the rest in the kernel of this machine."""

import copy
import ctypes
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.constants import PR_SET_NO_NEW_PRIVS
from runtime.errors import InvalidSpec, UnsupportedField
from runtime.process.plan import SeccompPlan
from runtime.seccomp import compiler, library
from runtime.seccomp.words import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS, listens
from runtime.spec import reading
from runtime.syscalls import lowest_free_fd, prctl, seccomp
from tests import bundles
from tests.profiles import ENGINES

CONFIG = Path("/b/config.json")
DENIED = {"defaultAction": "SCMP_ACT_ERRNO"}


def parsed(profile: Any) -> Any:
    """*profile* as the program gets it."""
    config = bundles.spec("true")
    config["linux"]["seccomp"] = copy.deepcopy(profile)
    return reading.parse(json.loads(json.dumps(config)), CONFIG).linux.seccomp


def faults(profile: Any) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        parsed(profile)
    return [str(fault) for fault in caught.value.faults]


def planned(profile: Any) -> SeccompPlan:
    return compiler.plan(parsed(profile), CONFIG)


def with_rule(**rule: Any) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", **rule}],
    }


def with_condition(**condition: Any) -> dict[str, Any]:
    return with_rule(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **condition}])


@pytest.mark.parametrize(
    ("profile", "where", "why"),
    [
        ({}, "linux.seccomp.defaultAction", "missing, and required"),
        (
            {"defaultAction": "ALLOW"},
            "linux.seccomp.defaultAction",
            "expected one of SCMP_ACT_KILL",
        ),
        ({**DENIED, "defaultErrnoRet": 5000}, "linux.seccomp.defaultErrnoRet", "from 0 to 4095"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1},
            "linux.seccomp.defaultErrnoRet",
            "SCMP_ACT_ALLOW returns no errno",
        ),
        (
            {**DENIED, "architectures": ["x86_64"]},
            "linux.seccomp.architectures[0]",
            "expected one of SCMP_ARCH_X86",
        ),
        ({**DENIED, "flags": ["TSYNC"]}, "linux.seccomp.flags[0]", "SECCOMP_FILTER_FLAG_TSYNC"),
        (
            {**DENIED, "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]},
            "linux.seccomp.flags",
            "needs an action SCMP_ACT_NOTIFY",
        ),
        (with_rule(action="ERRNO"), "linux.seccomp.syscalls[0].action", "expected one of"),
        (with_rule(names=[]), "linux.seccomp.syscalls[0].names", "at least 1 item"),
        (
            with_rule(action="SCMP_ACT_LOG", errnoRet=1),
            "linux.seccomp.syscalls[0].errnoRet",
            "SCMP_ACT_LOG returns no errno",
        ),
        (with_condition(op="EQ"), "linux.seccomp.syscalls[0].args[0].op", "SCMP_CMP_NE"),
        (with_condition(index=6), "linux.seccomp.syscalls[0].args[0].index", "from 0 to 5"),
        (with_condition(value=-1), "linux.seccomp.syscalls[0].args[0].value", "from 0 to"),
        (with_condition(value=None), "linux.seccomp.syscalls[0].args[0].value", "missing"),
        (
            with_rule(action="SCMP_ACT_NOTIFY"),
            "linux.seccomp.listenerPath",
            "missing, and required by SCMP_ACT_NOTIFY",
        ),
        (
            {**DENIED, "listenerMetadata": "x"},
            "linux.seccomp.listenerMetadata",
            "is for a listenerPath",
        ),
        ({**DENIED, "listenerPath": "a"}, "linux.seccomp.listenerPath", "an absolute path"),
    ],
)
def test_what_is_wrong_is_named(profile: Any, where: str, why: str) -> None:
    (fault,) = faults(profile)
    assert fault.startswith(f"{where}: ")
    assert why in fault


def test_every_word_of_the_specification_is_known() -> None:
    for action in ACTIONS:
        profile = {"defaultAction": action, "flags": [], "listenerPath": "/run/agent"}
        assert listens(parsed(profile)) is (action == "SCMP_ACT_NOTIFY")
    for operator in OPERATORS:
        parsed(with_condition(op=operator, valueTwo=2**64 - 1))
    parsed({**DENIED, "architectures": list(ARCHITECTURES)})
    notified = with_rule(action="SCMP_ACT_NOTIFY") | {"listenerPath": "/run/agent"}
    parsed({**notified, "flags": list(FLAGS)})


def test_a_missing_library_is_told_with_the_field_and_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "_FILE", "libseccomp.so.none")
    library.load.cache_clear()
    with pytest.raises(UnsupportedField) as caught:
        planned(DENIED)
    assert str(caught.value).startswith(
        "/b/config.json: linux.seccomp: needs libseccomp.so.none, which is not installed: "
        "apt-get install libseccomp2"
    )


@pytest.mark.needs_libseccomp
def test_flags_are_those_of_the_kernel() -> None:
    notified = with_rule(action="SCMP_ACT_NOTIFY") | {"listenerPath": "/run/agent"}
    assert planned({**notified, "flags": []})["flags"] == 1 << 3
    # of TSYNC nothing is left: the process has one thread
    assert planned({**DENIED, "flags": list(FLAGS)[:3]})["flags"] == 0b110
    assert planned({**notified, "flags": list(FLAGS)})["flags"] == 0b101110


@pytest.mark.needs_libseccomp
def test_without_a_list_of_flags_no_time_is_spent_on_speculation() -> None:
    assert planned(DENIED)["flags"] == FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]


def errno_under(plan: SeccompPlan, *call: int) -> int:
    """What the system call *call* fails with under a filter, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            install = seccomp(plan["call"], plan["flags"], plan["program"])
            arguments = [ctypes.c_long(each) for each in call]
            install()
            status = 0 if libc.syscall(*arguments) >= 0 else ctypes.get_errno()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def number(call: str) -> int:
    found = library.number_of(call)
    assert found is not None
    return found


@pytest.mark.needs_libseccomp
def test_a_call_that_is_newer_than_the_profile_fails_as_on_an_older_kernel() -> None:
    names = [name for rule in ENGINES["syscalls"] for name in rule["names"]]
    new = library.new_numbers(None, names)
    assert new
    plan = planned(ENGINES)
    assert errno_under(plan, new.low, 0, 0, 0) == errno.ENOSYS
    assert errno_under(plan, new.high, 0, 0, 0) == errno.ENOSYS
    assert errno_under(plan, number("mount"), 0, 0, 0) == errno.EPERM
    assert errno_under(plan, number("getpid")) == 0
    assert errno_under(plan, number("clone3"), 0, 0) == errno.ENOSYS


@pytest.mark.needs_libseccomp
@pytest.mark.parametrize(
    ("default", "rest"),
    [("SCMP_ACT_ALLOW", {}), ("SCMP_ACT_LOG", {}), ("SCMP_ACT_ERRNO", {"defaultErrnoRet": 38})],
)
def test_no_more_is_put_before_a_filter_than_is_needed(default: str, rest: Any) -> None:
    profile = {"defaultAction": default, **rest}
    with library.Filter(compiler._action(default, rest.get("defaultErrnoRet"))) as plain:
        assert planned(profile)["program"] == plain.export()


@pytest.mark.needs_libseccomp
def test_a_rule_that_repeats_the_default_is_left_out() -> None:
    profile = {**DENIED, "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    assert planned(profile)["program"].endswith(planned(DENIED)["program"])


@pytest.mark.needs_libseccomp
def test_calls_that_are_not_known_are_skipped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "runtime")
    assert planned(with_rule(names=["mkdir", "no_such_call"])) == planned(with_rule())
    assert "does not know the system call no_such_call: rule skipped" in caplog.text


@pytest.mark.needs_libseccomp
def test_an_architecture_that_cannot_be_filtered_here_is_named() -> None:
    with pytest.raises(InvalidSpec, match=r"linux.seccomp.architectures\[1\]: .*byte order"):
        planned({**DENIED, "architectures": ["SCMP_ARCH_ARM", "SCMP_ARCH_S390X"]})


def test_the_next_descriptor_is_known_beforehand() -> None:
    expected = lowest_free_fd()
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    assert fd == expected
