"""How the kernel is to treat a process: words, the rules between them, and numbers."""

from typing import Any

import pytest

from runtime import scheduling
from runtime.errors import InvalidSpec
from runtime.spec import reading
from runtime.spec.default import default_spec
from runtime.spec.model import Spec


def parsed(process: dict[str, Any] | None = None, linux: dict[str, Any] | None = None) -> Spec:
    config = default_spec()
    return reading.parse(
        config
        | {
            "process": config["process"] | (process or {}),
            "linux": config["linux"] | (linux or {}),
        }
    )


def fault(process: dict[str, Any] | None = None, linux: dict[str, Any] | None = None) -> str:
    with pytest.raises(InvalidSpec) as caught:
        parsed(process, linux)
    (found,) = caught.value.faults
    return f"{found.json_path}: {found.why}"


def planned(process: dict[str, Any] | None = None, linux: dict[str, Any] | None = None) -> Any:
    read = parsed(process, linux)
    return scheduling.plan(read.process, read.linux)


def test_who_asks_for_nothing_is_told_nothing() -> None:
    assert planned(linux={"resources": {"cpu": {"cpus": "0"}}}) is None


def test_a_deadline_has_its_three_times() -> None:
    times = {"runtime": 42000, "deadline": 100000, "period": 1000000}
    flags = ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"]
    plan = planned({"scheduler": {"policy": "SCHED_DEADLINE", "flags": flags, **times}})
    expected = {"policy": 6, "flags": 0b11, "nice": 0, "priority": 0, **times}
    assert plan["scheduler"] == expected


def test_class_and_priority_of_the_disk_are_one_number() -> None:
    plan = planned({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}})
    assert plan["io_priority"] == 2 << 13 | 4
    assert planned({"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}})["io_priority"] == 3 << 13


def test_nodes_are_bits_and_flags_go_with_the_mode() -> None:
    policy = {"mode": "MPOL_BIND", "nodes": "0,2-3,70", "flags": ["MPOL_F_STATIC_NODES"]}
    plan = planned(linux={"memoryPolicy": policy})
    assert plan["memory_policy"] == {"mode": 2 | 1 << 15, "nodes": 0b1101 | 1 << 70}


def test_a_personality_has_its_number() -> None:
    assert planned(linux={"personality": {"domain": "LINUX32"}})["personality"] == 8
    assert planned(linux={"personality": {"domain": "LINUX"}})["personality"] == 0


@pytest.mark.parametrize(
    ("process", "told"),
    [
        ({"scheduler": {}}, "process.scheduler.policy: missing, and required"),
        ({"scheduler": {"policy": "FIFO"}}, "process.scheduler.policy: expected one of SCHED_"),
        (
            {"scheduler": {"policy": "SCHED_OTHER", "priority": 5}},
            "process.scheduler.priority: is for SCHED_FIFO and SCHED_RR, not for SCHED_OTHER",
        ),
        (
            {"scheduler": {"policy": "SCHED_BATCH", "period": 5}},
            "process.scheduler.period: is for SCHED_DEADLINE, not for SCHED_BATCH",
        ),
        ({"scheduler": {"policy": "SCHED_BATCH", "nice": 20}}, "process.scheduler.nice: "),
        ({"ioPriority": {"class": "IOPRIO_CLASS_NONE"}}, "process.ioPriority.class: "),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, "process.ioPriority."),
        (
            {"execCPUAffinity": {"initial": "0-x"}},
            "process.execCPUAffinity.initial: invalid list of CPUs: expected a list as 0-3,7",
        ),
        ({"execCPUAffinity": {"final": "3-1"}}, "process.execCPUAffinity.final: "),
    ],
)
def test_what_is_wrong_with_a_process_is_named(process: dict[str, Any], told: str) -> None:
    assert fault(process).startswith(told)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({}, "mode: invalid memory policy mode: missing, and required"),
        ({"mode": "INTERLEAVE"}, "mode: invalid memory policy mode: expected one of MPOL_DEFAULT"),
        ({"mode": "MPOL_BIND"}, "nodes: memory policy mode requires at least one node but got 0"),
        (
            {"mode": "MPOL_DEFAULT", "nodes": "0-7"},
            "nodes: memory policy mode requires 0 nodes but got 8",
        ),
        (
            {"mode": "MPOL_BIND", "nodes": "0-9876543210"},
            "nodes: invalid memory policy nodes: expected a list as 0-3,7 of numbers up to 8191",
        ),
        ({"mode": "MPOL_LOCAL", "flags": ["X"]}, "flags[0]: invalid memory policy flag: expected"),
    ],
)
def test_what_is_wrong_with_a_memory_policy_is_named(policy: dict[str, Any], told: str) -> None:
    assert fault(linux={"memoryPolicy": policy}).startswith(f"linux.memoryPolicy.{told}")


def test_preferred_is_with_and_without_nodes() -> None:
    for nodes in ({}, {"nodes": "0"}, {"nodes": ""}):
        assert planned(linux={"memoryPolicy": {"mode": "MPOL_PREFERRED", **nodes}})
