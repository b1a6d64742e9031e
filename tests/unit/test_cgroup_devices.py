"""Device rules: one meaning, and two forms of it - the lists of v1 and the program of v2."""

import itertools
import struct
from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.cgroups import bpf
from runtime.cgroups.devices import ANY, Rule, V1List, rules, v1_list, v1_transition
from runtime.errors import UnsupportedField

# A busy machine is no fault of the code.
PATIENT = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NUMBERS = (1, 5)
ACCESSES = ["".join(c) for n in (1, 2, 3) for c in itertools.combinations("rwm", n)]

DENY_ALL = Rule(False, "a", ANY, ANY, "rwm")
ALLOW_ALL = Rule(True, "a", ANY, ANY, "rwm")

RULES = st.lists(
    st.builds(
        Rule,
        st.booleans(),
        st.sampled_from("abc"),
        st.sampled_from((ANY, *NUMBERS)),
        st.sampled_from((ANY, *NUMBERS)),
        st.sampled_from(ACCESSES),
    ),
    max_size=6,
)
WANTED = [
    (kind, major, minor, access)
    for kind in "bc"
    for major in (*NUMBERS, 9)
    for minor in (*NUMBERS, 9)
    for access in ACCESSES
]


# Operation code -> what it does with the register's value, the source's and the immediate one.
JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda value, immediate: value == immediate,
    0x55: lambda value, immediate: value != immediate,
    0x45: lambda value, immediate: bool(value & immediate),
}
RESULTS: dict[int, Callable[[int, int, int], int]] = {
    0xBF: lambda value, source, immediate: source,
    0xB7: lambda value, source, immediate: immediate,
    0x77: lambda value, source, immediate: value >> immediate,
    0x57: lambda value, source, immediate: value & immediate,
}


def test_a_letter_without_a_meaning_is_no_access() -> None:
    given = [{"allow": False, "access": "rwa"}, {"allow": True, "access": "a"}]
    assert rules({"devices": given})[0] == Rule(False, "a", ANY, ANY, "rw")
    assert Rule(True, "a", ANY, ANY, "") not in rules({"devices": given})


def fits(rule: Rule, kind: str, major: int, minor: int) -> bool:
    return rule.type in ("a", kind) and rule.major in (ANY, major) and rule.minor in (ANY, minor)


def meaning(all_rules: list[Rule], kind: str, major: int, minor: int, access: str) -> bool:
    """For each letter the last rule that fits decides; without one it is denied."""

    def one(letter: str) -> bool:
        fitting = [r for r in all_rules if letter in r.access and fits(r, kind, major, minor)]
        return bool(fitting) and fitting[-1].allow

    return all(one(letter) for letter in access)


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> int:
    """Interpret the eBPF *program* as the kernel would for one open or mknod."""
    code = list(struct.iter_unpack("<BBhi", program))
    wanted = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = {0: wanted << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    registers = [0] * 11
    at = 0
    while (step := code[at])[0] != 0x95:
        operation, pair, offset, immediate = step
        value, source = registers[pair & 15], registers[pair >> 4]
        at += 1
        if operation in JUMPS:
            at += offset if JUMPS[operation](value, immediate) else 0
        elif operation == 0x61:
            registers[pair & 15] = context[offset]
        else:
            registers[pair & 15] = RESULTS[operation](value, source, immediate)
    return registers[0]


@PATIENT
@given(RULES)
def test_the_program_decides_as_the_rules_mean(all_rules: list[Rule]) -> None:
    program = bpf.assemble(all_rules)
    for wanted in WANTED:
        assert run(program, *wanted) == meaning(all_rules, *wanted), wanted


def v1_allows(lists: V1List, kind: str, major: int, minor: int, access: str) -> bool:
    """What the kernel's devices cgroup answers: match_exception in security/device_cgroup.c."""

    def matches(key: tuple[str, tuple[int, int]]) -> bool:
        listed, (a, b) = key
        return listed == kind and a in (ANY, major) and b in (ANY, minor)

    if lists.allow:
        # One exception that takes any of the access away is enough.
        return not any(set(access) & bits for key, bits in lists.exceptions.items() if matches(key))
    return any(set(access) <= bits for key, bits in lists.exceptions.items() if matches(key))


@PATIENT
@given(RULES)
def test_the_list_of_v1_decides_as_the_rules_mean(all_rules: list[Rule]) -> None:
    try:
        lists = v1_list(all_rules)
    except UnsupportedField:
        return
    for kind, major, minor, letter in WANTED:
        if len(letter) == 1:  # v1 never joins exceptions, so only single letters compare
            allowed = meaning(all_rules, kind, major, minor, letter)
            assert v1_allows(lists, kind, major, minor, letter) == allowed


@PATIENT
@given(RULES, RULES)
def test_a_transition_leads_from_any_list_to_any_other(old: list[Rule], new: list[Rule]) -> None:
    try:
        current, target = v1_list(old), v1_list(new)
    except UnsupportedField:
        return
    shown = V1List(True, {}) if current.allow else current
    assert applied(current, v1_transition(shown, target)) == target


def applied(lists: V1List, writes: list[tuple[str, str]]) -> V1List:
    """What the kernel makes of *writes*: exceptions of the same numbers are joined."""
    allow, exceptions = lists.allow, dict(lists.exceptions)
    for file, line in writes:
        if line == "a":
            allow, exceptions = file == "devices.allow", {}
            continue
        ((key, bits),) = V1List.parse(line).exceptions.items()
        former = exceptions.pop(key, frozenset())
        adds = (file == "devices.allow") != allow
        if left := former | bits if adds else former - bits:
            exceptions[key] = left
    return V1List(allow, exceptions)


def exceptions_of(*all_rules: Rule) -> Mapping[tuple[str, tuple[int, int]], frozenset[str]]:
    return v1_list(list(all_rules)).exceptions


def test_the_spec_s_rules_come_first_and_then_what_every_container_has() -> None:
    given_rules = [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
    first, *rest = rules({"devices": given_rules})
    assert first == Rule(True, "c", 10, 229, "rw")
    null, net_tun = (1, 3), (10, 200)
    for number in (null, net_tun):
        assert Rule(True, "c", *number, "rwm") in rest
    assert rules({}) == rest


@pytest.mark.parametrize("kind", ["", None])
def test_an_absent_type_and_absent_numbers_mean_all(kind: str | None) -> None:
    given_rule = {"allow": False, "access": "rwm"} | ({} if kind is None else {"type": kind})
    assert rules({"devices": [given_rule]})[0] == DENY_ALL


def test_allow_all_is_one_line_on_v1() -> None:
    target = v1_list(rules({"devices": [{"allow": True, "access": "rwm"}]}))
    assert v1_transition(V1List(False, {}), target) == [("devices.allow", "a")]


def test_devices_denied_out_of_all_are_exceptions() -> None:
    lists = v1_list([ALLOW_ALL, Rule(False, "c", 1, 5, "rw")])
    assert v1_transition(V1List(True, {}), lists) == [
        ("devices.allow", "a"),
        ("devices.deny", "c 1:5 rw"),
    ]


def test_one_type_may_be_allowed_as_a_whole() -> None:
    assert exceptions_of(ALLOW_ALL, Rule(False, "b", ANY, ANY, "rwm")) == {
        ("c", (ANY, ANY)): frozenset("rwm")
    }


def test_what_both_allow_is_never_denied_on_the_way() -> None:
    current = v1_list([Rule(True, "c", 1, 5, "rw"), Rule(True, "b", 1, ANY, "r")])
    target = v1_list([Rule(True, "c", 1, 5, "rm")])
    assert v1_transition(current, target) == [
        ("devices.allow", "c 1:5 m"),
        ("devices.deny", "c 1:5 w"),
        ("devices.deny", "b 1:* r"),
    ]


@pytest.mark.parametrize(
    "all_rules",
    [
        [Rule(True, "c", 1, ANY, "rw"), Rule(False, "c", 1, 5, "r")],
        [Rule(True, "c", 1, ANY, "rw"), Rule(False, "c", ANY, 5, "r")],
        [ALLOW_ALL, Rule(False, "c", ANY, ANY, "rwm"), Rule(False, "b", 1, 1, "r")],
    ],
)
def test_v1_refuses_a_hole_that_it_cannot_make(all_rules: list[Rule]) -> None:
    with pytest.raises(UnsupportedField, match=r"linux\.resources\.devices: cgroup v1 cannot deny"):
        v1_list(all_rules)


def test_the_kernel_s_list_is_read() -> None:
    assert V1List.parse("c *:* m\nb 8:0 rw\n") == V1List(
        False, {("c", (ANY, ANY)): frozenset("m"), ("b", (8, 0)): frozenset("rw")}
    )
    assert V1List.parse("a *:* rwm\n") == V1List(True, {})
    assert V1List.parse("") == V1List(False, {})
