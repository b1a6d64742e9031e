"""Read config.json of a bundle, and process.json of exec: the edge where both are checked.

Every fault is told at once, each with its JSON path. What stands behind this edge trusts the types.
OCI runtime-spec config.md and config-linux.md; runtime/spec/fields.py has the table of fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from runtime.errors import BundleError, InvalidSpec, UnsupportedField
from runtime.spec import validate
from runtime.spec.fields import PROCESS, RESOURCES, SPEC
from runtime.spec.model import Process, Spec
from runtime.spec.schema import Faults, Kind

CONFIG_FILE = "config.json"

# What a process that is added to a container has of the container's own, unless it says otherwise;
# the labels too: runtime/process/exec.py sees to them for every caller.
_OF_THE_CONTAINER = (
    *("capabilities", "rlimits", "oomScoreAdj"),
    *("ioPriority", "scheduler", "execCPUAffinity"),
)


def load(bundle: Path) -> Spec:
    """Read and check the config.json of *bundle*, and see that its rootfs is there.

    Raises BundleError when a file is missing, InvalidSpec with all faults, UnsupportedField when
    the only faults are fields that this runtime does not carry out.
    """
    path = bundle / CONFIG_FILE
    if not bundle.is_dir():
        raise BundleError(bundle, "no such directory")
    if not path.exists():
        raise BundleError(
            bundle, f"has no {CONFIG_FILE} (`migrator spec` writes one to start from)"
        )
    spec = parse(_read_json(path), path)
    if not spec.rootfs(bundle).is_dir():
        raise BundleError(bundle, f"its rootfs {spec.rootfs(bundle)} is not a directory")
    return spec


def load_process(path: Path, container_process: Mapping[str, Any] | None = None) -> Process:
    """Read and check a process.json as exec takes it; raises as `load` does.

    container_process: where what it leaves open comes from, as with runc; a config.json's process.
    """
    # Before it is completed: a key in another case names a field as well.
    data = PROCESS.spelled(_read_json(path))
    if container_process and isinstance(data, dict):
        data = _completed(data, container_process)
    return parse_process(data, path)


def _completed(data: dict[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """*data* with what of *base* it does not name itself."""
    kept = {name: base.get(name) for name in _OF_THE_CONTAINER if data.get(name) in (None, [], "")}
    user, umask = data.get("user") or {}, (base.get("user") or {}).get("umask")
    if isinstance(user, dict) and user.get("umask") is None:
        kept["user"] = user | {"umask": umask}
    return data | kept


def parse(data: Any, path: Path = Path(CONFIG_FILE)) -> Spec:
    """Check *data*, read from *path*, and make it a Spec."""
    data = SPEC.spelled(data)
    spec: Spec = _parsed(SPEC, data, path, validate.spec)
    return spec._replace(raw=data)


def parse_process(data: Any, path: Path) -> Process:
    """Check *data*, the process object read from *path*."""
    process: Process = _parsed(PROCESS, PROCESS.spelled(data), path, validate.process)
    return process


def parse_resources(data: Any, path: Path) -> Mapping[str, Any]:
    """Check *data*, a linux.resources object read from *path*."""
    resources: Mapping[str, Any] = _parsed(RESOURCES, data, path, validate.resources)
    return resources


def with_resources(spec: Spec, resources: Mapping[str, Any]) -> Spec:
    """*spec* with *resources* in the place of its own, but for devices; as it is with none."""
    if not resources:
        return spec
    read = dict(parse_resources(resources, Path("linux.resources")))
    read["devices"] = spec.linux.resources.get("devices", ())
    return spec._replace(linux=spec.linux._replace(resources=read))


def parse_changes(data: Any, path: Path) -> Mapping[str, Any]:
    """Check *data*, some of a linux.resources: without what joins it with the rest."""
    changes: Mapping[str, Any] = _parsed(RESOURCES, data, path, lambda _value, _faults: None)
    return changes


def _parsed(kind: Kind, data: Any, path: Path, check: Callable[[Any, Faults], None]) -> Any:
    faults = Faults()
    value = kind.read(data, "", faults)
    # What joins fields together is only checked where each field is sound: no fault is told twice.
    if not faults.invalid:
        check(value, faults)
    if faults.invalid:
        raise InvalidSpec(path, faults.all)
    if faults.all:
        raise UnsupportedField(path, faults.all)
    return value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"), parse_constant=_no_constant)
    except OSError as exc:
        raise InvalidSpec(path, [("", f"cannot be read: {exc.strerror}")]) from exc
    except RecursionError:
        raise InvalidSpec(path, [("", "not valid JSON: nested too deeply")]) from None
    except ValueError as exc:
        raise InvalidSpec(path, [("", f"not valid JSON: {exc}")]) from exc


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
