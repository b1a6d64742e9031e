"""Which devices a container may use: the rules of the OCI runtime-spec, and their form on v1.

The rules apply in their order, starting from "all denied"; the devices that every container has by
the specification are allowed after them. v1 keeps one default and a set of exceptions, in which not
every list of rules can be said; v2 runs a program over the list itself (runtime/cgroups/bpf.py).
OCI runtime-spec config-linux.md "Allowed Device list"; kernel cgroup-v1/devices.rst.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime.errors import UnsupportedField

ANY = -1

Number = tuple[int, int]


class Rule(NamedTuple):
    """Allow or deny some kinds of access to devices of one type; ANY stands for all numbers."""

    allow: bool
    #: c, b, or a for both
    type: str
    major: int
    minor: int
    #: letters of rwm: read, write, mknod
    access: str

    def __str__(self) -> str:
        verb = "allow" if self.allow else "deny"
        return f"{verb} {_line(self.type, (self.major, self.minor), frozenset(self.access))}"


# Null, random, full, tty, zero, urandom, console, the pty slaves and ptmx, and net/tun, whose node
# is often bound into a container without a word to us; and making nodes of any device, which
# without the right to open them is harmless.
_ALWAYS = (
    Rule(True, "a", ANY, ANY, "m"),
    *(Rule(True, "c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)),
    *(Rule(True, "c", 5, minor, "rwm") for minor in (0, 1, 2)),
    Rule(True, "c", 136, ANY, "rwm"),
    Rule(True, "c", 10, 200, "rwm"),
)


def rules(resources: Mapping[str, Any]) -> list[Rule]:
    """All rules of a checked linux.resources, in order, and those that every container has."""
    given = (
        Rule(
            allow=each["allow"],
            type=each.get("type") or "a",
            major=each.get("major", ANY),
            minor=each.get("minor", ANY),
            access=each["access"].replace("a", ""),
        )
        for each in resources.get("devices", ())
    )
    return [*(rule for rule in given if rule.access), *_ALWAYS]


class V1List(NamedTuple):
    """The devices cgroup on v1: a default, and exceptions from it as (type, number) -> access."""

    allow: bool
    exceptions: Mapping[tuple[str, Number], frozenset[str]]

    @classmethod
    def parse(cls, text: str) -> V1List:
        """Read devices.list; it does not show the exceptions where the default is to allow."""
        exceptions: dict[tuple[str, Number], frozenset[str]] = {}
        for line in text.splitlines():
            kind, number, access = line.split()
            if kind == "a":
                return cls(True, {})
            major, minor = (ANY if each == "*" else int(each) for each in number.split(":"))
            exceptions[kind, (major, minor)] = frozenset(access)
        return cls(False, exceptions)


def v1_list(all_rules: list[Rule]) -> V1List:
    """What the rules come to; raises UnsupportedField where v1 has no form for it."""
    tables = {kind: _Table() for kind in "cb"}
    for rule in all_rules:
        for kind in tables if rule.type == "a" else rule.type:
            tables[kind].apply(rule)
    if all(table.allow for table in tables.values()):
        return V1List(True, _joined(tables))
    for table in tables.values():
        table.list_allowed()
    return V1List(False, _joined(tables))


def _joined(tables: Mapping[str, _Table]) -> dict[tuple[str, Number], frozenset[str]]:
    return {
        (kind, number): access
        for kind, table in tables.items()
        for number, access in table.exceptions.items()
    }


class _Table:
    """The devices of one type: a default, and the exceptions from it."""

    def __init__(self) -> None:
        self.allow = False
        self.exceptions: dict[Number, frozenset[str]] = {}

    def apply(self, rule: Rule) -> None:
        number, access = (rule.major, rule.minor), frozenset(rule.access)
        if number == (ANY, ANY) and access == frozenset("rwm"):
            self.allow, self.exceptions = rule.allow, {}
        elif rule.allow != self.allow:
            self.exceptions[number] = self.exceptions.get(number, frozenset()) | access
        else:
            self._withdraw(number, access, rule)

    def _withdraw(self, number: Number, access: frozenset[str], rule: Rule) -> None:
        for other, bits in list(self.exceptions.items()):
            if _covers(number, other):
                self.exceptions[other] = bits - access
            elif _overlap(number, other) and bits & access:
                raise _inexpressible(f"cannot {rule} out of a wider rule before it")
        self.exceptions = {each: bits for each, bits in self.exceptions.items() if bits}

    def list_allowed(self) -> None:
        """Turn "allow all" into a list of what is allowed, beside a type that is denied."""
        if self.allow and self.exceptions:
            raise _inexpressible("cannot deny one type, and allow the other with exceptions")
        if self.allow:
            self.allow, self.exceptions = False, {(ANY, ANY): frozenset("rwm")}


def v1_transition(current: V1List, target: V1List) -> list[tuple[str, str]]:
    """The writes (file, line) that lead from *current* to *target*.

    From a list to a list nothing is denied that both allow, not even for a moment: the container
    may be running.
    """
    if current.allow or target.allow:
        start = "devices.allow" if target.allow else "devices.deny"
        exceptions = "devices.deny" if target.allow else "devices.allow"
        return [(start, "a"), *_writes(exceptions, target.exceptions, {})]
    return [
        *_writes("devices.allow", target.exceptions, current.exceptions),
        *_writes("devices.deny", current.exceptions, target.exceptions),
    ]


def _writes(
    file: str,
    wanted: Mapping[tuple[str, Number], frozenset[str]],
    present: Mapping[tuple[str, Number], frozenset[str]],
) -> list[tuple[str, str]]:
    missing = {key: bits - present.get(key, frozenset()) for key, bits in wanted.items()}
    return [(file, _line(*key, bits)) for key, bits in missing.items() if bits]


def _line(kind: str, number: Number, access: frozenset[str]) -> str:
    major, minor = ("*" if each == ANY else str(each) for each in number)
    return f"{kind} {major}:{minor} {''.join(letter for letter in 'rwm' if letter in access)}"


def _covers(wide: Number, narrow: Number) -> bool:
    return all(a in (ANY, b) for a, b in zip(wide, narrow, strict=True))


def _overlap(one: Number, other: Number) -> bool:
    return all(a == b or ANY in (a, b) for a, b in zip(one, other, strict=True))


def _inexpressible(why: str) -> UnsupportedField:
    return UnsupportedField("config.json", [("linux.resources.devices", f"cgroup v1 {why}")])
