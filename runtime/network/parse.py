"""Networks as people give them: `--network KEY=VALUE,...`, `--route KEY=VALUE,...`, or a JSON file.

Keys are libcontainer's field names, `mac` is short for mac_address, and a boolean key may stand
alone; a lone first word is the type: `--network loopback`, `--network veth,name=eth0,bridge=br0`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from runtime.errors import InvalidNetwork
from runtime.network.models import Network, Networks, Route

_ALIASES = {"mac": "mac_address"}
_TRUTHS = {"true": True, "false": False}


def parse_network(text: str) -> Network:
    """The network of one --network value."""
    first, comma, rest = text.partition(",")
    if "=" not in first:
        text = f"type={first}{comma}{rest}"
    kinds = {field.name: str(field.type) for field in fields(Network)}
    return Network.from_json(_pairs(text, kinds, "--network"), where="--network")


def parse_route(text: str) -> Route:
    """The route of one --route value."""
    kinds = {field.name: str(field.type) for field in fields(Route)}
    return Route.from_json(_pairs(text, kinds, "--route"), where="--route")


def read_file(path: Path) -> Networks:
    """The networks of a JSON file `{"networks": [...], "routes": [...]}`."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as exc:
        raise InvalidNetwork("network file", "", str(path), exc.strerror or str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidNetwork("network file", "", str(path), f"is not JSON: {exc}") from exc
    return Networks.from_json(data, where=str(path))


def combine(networks: Iterable[str], routes: Iterable[str], file: Path | None = None) -> Networks:
    """All that one command line gives: the file's first, then the options'."""
    base = Networks() if file is None else read_file(file)
    return Networks(
        base.networks + tuple(map(parse_network, networks)),
        base.routes + tuple(map(parse_route, routes)),
    )


def _pairs(text: str, kinds: Mapping[str, str], where: str) -> dict[str, Any]:
    """`key=value,...` as a JSON object; unknown keys are left to from_json."""
    found: dict[str, Any] = {}
    for item in text.split(","):
        key, equals, value = item.strip().partition("=")
        field = _ALIASES.get(key, key)
        if field in found:
            raise InvalidNetwork(where, key, value, "is given twice")
        found[field] = _value(where, key, value if equals else None, kinds.get(field, "str"))
    return found


def _value(where: str, key: str, value: str | None, kind: str) -> Any:
    if kind == "bool":
        if value is None or value in _TRUTHS:
            return value is None or _TRUTHS[value]
        raise InvalidNetwork(where, key, value, "is not true or false")
    if value is None:
        raise InvalidNetwork(where, key, None, f"has no value: write {key}=...")
    if kind == "int" and not (value.isascii() and value.isdigit()):
        raise InvalidNetwork(where, key, value, "is not a number")
    return int(value) if kind == "int" else value
