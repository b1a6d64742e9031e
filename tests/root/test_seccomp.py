"""System call filters: what a container's processes may call, as the kernel has it."""

import errno
import signal
from pathlib import Path
from typing import Any

import pytest

from runtime import SetupFailed
from tests.containers import Box, without_namespace
from tests.migratory import COUNT, Migratory
from tests.profiles import ENGINES
from tests.waiting import eventually

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_busybox,
    pytest.mark.needs_libseccomp,
]

MODE = "grep Seccomp: /proc/self/status"
FILTERED = "Seccomp:\t2\n"
COUNT_AND_TRY = COUNT.replace("sleep", "mkdir /tmp/made || touch /tmp/failed; sleep")


def rule(action: str, *names: str, **rest: Any) -> dict[str, Any]:
    return {"names": list(names), "action": f"SCMP_ACT_{action}", **rest}


def compared(index: int, operator: str, value: int, second: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{operator}", "value": value, "valueTwo": second}


def profile(*rules: dict[str, Any], default: str = "ALLOW", **rest: Any) -> dict[str, Any]:
    return {"defaultAction": f"SCMP_ACT_{default}", "syscalls": list(rules), **rest}


def filtered(box: Box, *rules: dict[str, Any], **rest: Any) -> Box:
    box.update(linux={"seccomp": profile(*rules, **rest)})
    return box


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("uid", [0, 1000])
def test_a_call_fails_with_the_chosen_errno(box: Box, no_new_privileges: bool, uid: int) -> None:
    filtered(box, rule("ERRNO", "mkdir", "mkdirat", errnoRet=errno.EDQUOT))
    script = f"mkdir /tmp/x; {MODE}; grep Cap[EP] /proc/self/status"
    options: dict[str, Any] = {"noNewPrivileges": no_new_privileges, "user": {"uid": uid, "gid": 0}}
    outcome = box.shell(script, **options)
    assert "uota" in outcome.err
    assert outcome.out.startswith(FILTERED)
    box.update(linux={"seccomp": None})
    assert outcome.out.partition(FILTERED)[2] == box.shell(script, **options).out.partition("\n")[2]


def test_an_errno_is_eperm_if_none_is_chosen(box: Box) -> None:
    filtered(box, rule("ERRNO", "mkdir", "mkdirat"))
    assert "Operation not permitted" in box.shell("mkdir /tmp/x").err


@pytest.mark.parametrize("action", ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"])
def test_a_call_can_be_the_end(box: Box, action: str) -> None:
    filtered(box, rule(action, "mkdir", "mkdirat"))
    box.program("mkdir", "/tmp/x")
    assert box.run().status == 128 + signal.SIGSYS
    assert not (box.bundle.rootfs / "tmp/x").exists()


@pytest.mark.parametrize("action", ["LOG", "ALLOW"])
def test_a_call_can_be_let_pass_where_all_others_fail(box: Box, action: str) -> None:
    box.update(linux={"seccomp": ENGINES})
    assert box.shell("ionice -c 2 -n 4 true").status != 0
    rules = [*ENGINES["syscalls"], rule(action, "ioprio_set")]
    box.update(linux={"seccomp": {**ENGINES, "syscalls": rules}})
    assert box.shell("ionice -c 2 -n 4 true").status == 0


def test_a_call_for_a_tracer_fails_with_enosys_where_there_is_none(box: Box) -> None:
    filtered(box, rule("TRACE", "mkdir", "mkdirat", errnoRet=7))
    assert "Function not implemented" in box.shell("mkdir /tmp/x").err


@pytest.mark.parametrize(
    ("conditions", "forbidden"),
    [
        ([("NE", 0o600)], [0o400, 0o700]),
        ([("LT", 0o600)], [0o400]),
        ([("LE", 0o600)], [0o400, 0o600]),
        ([("EQ", 0o600)], [0o600]),
        ([("GE", 0o600)], [0o600, 0o700]),
        ([("GT", 0o600)], [0o700]),
        ([("MASKED_EQ", 0o300, 0o200)], [0o600]),
        ([("MASKED_EQ", 0o300)], [0o400]),
        # of one argument: either is enough
        ([("EQ", 0o400), ("EQ", 0o700)], [0o400, 0o700]),
    ],
)
def test_a_rule_can_depend_on_an_argument(
    box: Box, conditions: list[tuple[Any, ...]], forbidden: list[int]
) -> None:
    def of(name: str, index: int) -> dict[str, Any]:
        return rule("ERRNO", name, args=[compared(index, *each) for each in conditions])

    filtered(box, of("chmod", 1), of("fchmodat", 2))
    script = "touch /tmp/f; for m in 400 600 700; do chmod $m /tmp/f 2>/dev/null || echo $m; done"
    assert [int(mode, 8) for mode in box.shell(script).out.split()] == forbidden


def test_conditions_on_several_arguments_have_to_hold_together(box: Box) -> None:
    def of(name: str, *args: dict[str, Any]) -> dict[str, Any]:
        return rule("ERRNO", name, args=list(args))

    everybody = compared(1, "EQ", 5), compared(2, "EQ", 6)
    filtered(box, of("chown", *everybody), of("lchown", *everybody))
    caps = {name: ["CAP_CHOWN"] for name in ("bounding", "effective", "permitted")}
    script = "touch /tmp/f; for o in 5:5 6:6 5:6; do chown $o /tmp/f 2>/dev/null || echo $o; done"
    assert box.shell(script, capabilities=caps).out == "5:6\n"


@pytest.mark.parametrize(
    "flag",
    [
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    ],
)
def test_the_kernel_takes_every_flag(box: Box, flag: str) -> None:
    filtered(box, rule("ERRNO", "mkdir"), flags=[flag])
    assert box.shell(MODE).out == FILTERED


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_shell_works_under_an_engines_profile(box: Box, no_new_privileges: bool) -> None:
    box.update(linux={"seccomp": ENGINES})
    script = (
        "set -e; mkdir /tmp/d; echo a b c > /tmp/d/f; ls -l /tmp/d | wc -l; "
        "cat /tmp/d/f | tr ' ' '\\n' | sort -r | head -1; (sleep 0.01; echo slept) & wait; "
        "id -u; unshare -m true 2>/dev/null || echo no namespace"
    )
    outcome = box.shell(script, noNewPrivileges=no_new_privileges)
    assert outcome.out.splitlines() == ["2", "c", "slept", "0", "no namespace"], outcome.err


def test_nothing_but_exec_comes_under_the_filter_before_the_program(box: Box) -> None:
    # All that a static program needs that does nothing. The runtime's own calls are not among it.
    needed = (
        "execve brk arch_prctl set_tid_address set_robust_list rseq prlimit64 readlink mprotect "
    )
    needed += "getrandom getuid getgid setuid setgid exit_group exit prctl readlinkat"
    filtered(box, rule("ALLOW", *needed.split()), default="KILL_PROCESS")
    box.program("true")
    assert box.run().status == 0


def test_a_profile_without_exec_is_the_end_of_it(box: Box) -> None:
    box.update(linux={"namespaces": without_namespace(box.bundle.spec, "pid")})
    filtered(box, rule("KILL_PROCESS", "execve"))
    assert box.shell("true").status == 128 + signal.SIGSYS


def test_a_profile_that_forbids_exec_is_told(box: Box) -> None:
    filtered(box, rule("ERRNO", "execve"))
    with pytest.raises(SetupFailed, match=r"exec .*operation not permitted"):
        box.shell("true")


def test_a_further_process_comes_under_the_same_filter(box: Box) -> None:
    filtered(box, rule("ERRNO", "mkdir", "mkdirat", errnoRet=errno.EDQUOT))
    container = box.start()
    for no_new_privileges in (True, False):
        outcome = box.exec(container, f"mkdir /tmp/x; {MODE}", no_new_privileges=no_new_privileges)
        assert "uota" in outcome.err
        assert outcome.out == FILTERED


def test_a_call_that_libseccomp_does_not_know_is_skipped(box: Box) -> None:
    filtered(box, rule("ERRNO", "mkdir", "no_such_call", "s390_pci_mmio_read"))
    assert "not permitted" in box.shell("mkdir /tmp/x").err


def test_the_filter_survives_a_checkpoint(migratory: Migratory) -> None:
    forbidden = rule("ERRNO", "mkdir", "mkdirat", errnoRet=errno.EDQUOT)
    filtered(migratory.box, forbidden)
    migratory.start(COUNT_AND_TRY)
    assert migratory.counts()
    migratory.checkpoint()
    (migratory.box.bundle.rootfs / "tmp/failed").unlink()
    container = migratory.restore()
    assert migratory.counts()
    assert eventually((migratory.box.bundle.rootfs / "tmp/failed").exists)
    assert not (migratory.box.bundle.rootfs / "tmp/made").exists()
    status = Path(f"/proc/{container.state.init_pid}/status").read_text()
    assert FILTERED in status
    assert "Seccomp_filters:\t1\n" in status
    assert "uota" in migratory.box.exec(container, "mkdir /tmp/x").err
