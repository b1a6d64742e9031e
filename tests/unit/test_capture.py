"""The description of a network namespace: what it says, what it is compared by, what it refuses."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.network.capture import Description, Entry, Link, objections

LO = Link(name="lo", index=1, kind="", flags=0x1, given=" 4=00000100")
ETH0 = Link(name="eth0", index=2, kind="veth", flags=0x1001, given=" 1=020000000002 4=dc050000")
ADDRESS = "0218800002000000 1=0a010002 2=0a010002 3=6574683000 8=80000000"
NAMESPACE = Description(
    links=(LO, ETH0),
    addresses=(ADDRESS,),
    routes=("02000000fe03000100000000 15=fe000000 5=0a010001 4=02000000",),
    rules=(),
    neighbours=(),
    sysctls={"ipv4/ip_forward": "0"},
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def test_it_survives_its_json() -> None:
    assert Description.from_json(json.loads(json.dumps(NAMESPACE.to_json()))) == NAMESPACE


def test_an_entry_is_the_message_it_came_in() -> None:
    entry = Entry.parse(ADDRESS)
    assert str(entry) == ADDRESS
    assert entry.payload.hex().startswith("0218800002000000" + "08000100" + "0a010002")


@given(st.sampled_from(sorted(NAMESPACE.to_json())), JSON)
def test_whatever_a_field_holds_it_is_read_or_refused(field: str, value: Any) -> None:
    try:
        Description.from_json(NAMESPACE.to_json() | {field: value})
    except ValueError:
        return
    assert isinstance(value, dict if field == "sysctls" else list)


@pytest.mark.parametrize("name", ["/etc/passwd", "../kernel/core_pattern", "ipv4/../../kernel/x"])
def test_a_parameter_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a parameter"):
        Description.from_json(NAMESPACE.to_json() | {"sysctls": {name: "1"}})


@pytest.mark.parametrize("entry", ["02zz", "0218 1", "0218 99999=00", "", " 1=00"])
def test_what_is_no_message_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Description.from_json(NAMESPACE.to_json() | {"routes": [entry]})


def test_lifetimes_pass_without_a_difference() -> None:
    former, now = (replace(NAMESPACE, addresses=(f"{ADDRESS} 6={x}",)) for x in ("aa", "bb"))
    assert former.differences(now) == []


def test_differences_are_named() -> None:
    changed = replace(NAMESPACE, routes=(), sysctls={"ipv4/ip_forward": "1", "ipv4/new": "7"})
    assert NAMESPACE.differences(changed) == [
        f"routes: {NAMESPACE.routes[0]} is missing",
        "net/ipv4/ip_forward is '1', not '0'",
    ]


def test_what_cannot_be_made_again_is_named() -> None:
    dummy = replace(ETH0, name="dummy0", kind="dummy")
    down = replace(LO, flags=0)
    other = replace(NAMESPACE, links=(down, dummy), others=("the nftables table filter",))
    assert objections(NAMESPACE, ["eth0"]) == []
    assert objections(other, ["eth0"]) == [
        "it has the nftables table filter",
        "its loopback is down",
        "it has the interface dummy0",
        "it has no interface eth0",
    ]
