"""The process that `exec` adds to a container: a file's, or the container's own with changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from migrator.errors import UsageProblem
from runtime.container import Container
from runtime.spec.model import Process
from runtime.spec.reading import load_process, parse_process

_GIVEN_CAPABILITIES = ("bounding", "effective", "permitted")


def process_for(
    container: Container,
    *,
    file: Path | None,
    args: Sequence[str],
    cwd: str | None,
    env: Sequence[str],
    user: str | None,
    additional_gids: Sequence[int],
    caps: Sequence[str],
    apparmor: str | None,
    process_label: str | None,
    no_new_privs: bool,
    tty: bool,
) -> Process:
    """What the options of exec ask for; InvalidSpec names what of it cannot be."""
    if file is not None:
        return load_process(file, container.state.spec["process"])
    if not args:
        raise UsageProblem("missing argument COMMAND, or --process FILE")
    base: dict[str, Any] = container.state.spec["process"]
    owner = dict(base.get("user") or {})
    if user is not None:
        owner |= _user(user)
    if additional_gids:
        owner["additionalGids"] = [*owner.get("additionalGids", ()), *additional_gids]
    changed = base | {
        "args": list(args),
        "cwd": cwd or base["cwd"],
        "env": [*base.get("env", ()), *env],
        "user": owner,
        "terminal": tty,
        "noNewPrivileges": no_new_privs or base.get("noNewPrivileges", False),
    }
    if apparmor:
        changed["apparmorProfile"] = apparmor
    if process_label:
        changed["selinuxLabel"] = process_label
    if caps:
        changed["capabilities"] = _with(base.get("capabilities") or {}, caps)
    return parse_process(changed, Path("exec"))


def _user(text: str) -> dict[str, int]:
    uid, colon, gid = text.partition(":")
    if not uid.isdecimal() or (colon and not gid.isdecimal()):
        raise UsageProblem(f"--user {text!r}: give a number, or two as UID:GID")
    return {"uid": int(uid), **({"gid": int(gid)} if colon else {})}


def _with(sets: dict[str, list[str]], caps: Sequence[str]) -> dict[str, list[str]]:
    """The *sets* with *caps*; ambient ones have to be inheritable too (capabilities(7))."""
    given = (*_GIVEN_CAPABILITIES, *(("ambient",) if sets.get("inheritable") else ()))
    return sets | {name: [*(sets.get(name) or ()), *caps] for name in given}
