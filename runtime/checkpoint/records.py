"""migrator.json of an image directory: what a restore must know that CRIU's images do not say.

Written by the dump, read by the restore - on another host, from a directory that anybody may have
made: what it says is checked here, and leads to no file of the host. Beside it lies
descriptors.json, as other runtimes and their callers read it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from runtime.checkpoint.descriptors import STANDARD, Descriptor, Kind
from runtime.checkpoint.tmpfs import Tmpfs
from runtime.errors import InvalidNetwork, InvalidSpec, RestoreFailed
from runtime.network.capture import Description
from runtime.network.models import Networks
from runtime.spec.reading import parse_resources

RECORD_FILE = "migrator.json"
DESCRIPTORS_FILE = "descriptors.json"
#: of a directory that others may be incremental to: runtime.checkpoint.incremental_chain
CHAIN_FILE = "chain.json"

IdMaps = tuple[str, str]

_FORMAT = 1
#: with what CRIU's images do not hold, since it lies beside them: not to be read as if nothing did
_FORMAT_BESIDE = 2
# What records of former versions do not have.
_LATER: dict[str, Any] = {
    "peers": [],
    "tmpfs": [],
    "namespace": None,
    "id_maps": None,
    "resources": {},
    "systemd_cgroup": False,
    "own_keyring": True,
}
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumped:
    """How it was dumped: a restore must be told the same."""

    tcp_established: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    link_remap: bool = False
    empty_network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that is known of a dumped container beside its images."""

    container_id: str
    #: of the config.json that it ran by
    spec_sha256: str
    descriptors: tuple[Descriptor, ...]
    networks: Networks = field(default_factory=Networks)
    #: names of mounts that came along with recursive bind mounts
    submounts: tuple[str, ...] = ()
    #: names of external mounts that are peers of the host's
    peers: tuple[str, ...] = ()
    #: those whose content lies beside CRIU's images
    tmpfs: tuple[Tmpfs, ...] = ()
    #: its network namespace, where CRIU was not to dump it
    namespace: Description | None = None
    #: the maps of its user namespace, as /proc/PID/uid_map and gid_map take them
    id_maps: IdMaps | None = None
    dumped: Dumped = field(default_factory=Dumped)
    #: its linux.resources, where they were changed while it ran
    resources: dict[str, Any] = field(default_factory=dict)
    #: its cgroup was a unit of systemd's
    systemd_cgroup: bool = False
    #: its processes had a session keyring of their own, not that of who made it
    own_keyring: bool = True

    def to_json(self) -> dict[str, Any]:
        """The object that from_json takes."""
        return {
            "version": _FORMAT_BESIDE if self.tmpfs or self.namespace else _FORMAT,
            "container_id": self.container_id,
            "spec_sha256": self.spec_sha256,
            "descriptors": [each.to_json() for each in self.descriptors],
            "networks": self.networks.to_json(),
            "submounts": list(self.submounts),
            "peers": list(self.peers),
            "tmpfs": [each.to_json() for each in self.tmpfs],
            "namespace": self.namespace and self.namespace.to_json(),
            "id_maps": self.id_maps and list(self.id_maps),
            "dumped": {f.name: getattr(self.dumped, f.name) for f in fields(Dumped)},
            "resources": self.resources,
            "systemd_cgroup": self.systemd_cgroup,
            "own_keyring": self.own_keyring,
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Raises ValueError when *data* is no such object."""
        formats = (_FORMAT, _FORMAT_BESIDE)
        if not isinstance(data, dict) or data.get("version") not in formats:
            raise ValueError(f"it is not of format version {_FORMAT} or {_FORMAT_BESIDE}")
        found: dict[str, Any] = _LATER | data
        match found:
            case {
                "container_id": str(container_id),
                "spec_sha256": str(spec_sha256),
                "descriptors": [_, _, _] as descriptors,
                "networks": dict(networks),
                "submounts": list(submounts),
                "peers": list(peers),
                "tmpfs": list(tmpfs),
                "namespace": namespace,
                "id_maps": None | [str(), str()] as id_maps,
                "dumped": dict(dumped),
                "resources": dict(resources),
                "systemd_cgroup": bool(systemd_cgroup),
                "own_keyring": bool(own_keyring),
            }:
                return cls(
                    container_id=container_id,
                    spec_sha256=spec_sha256,
                    descriptors=tuple(Descriptor.from_json(each) for each in descriptors),
                    networks=_networks(networks),
                    submounts=tuple(_submount(each) for each in submounts),
                    peers=tuple(_submount(each) for each in peers),
                    tmpfs=tuple(Tmpfs.from_json(each) for each in tmpfs),
                    namespace=None if namespace is None else Description.from_json(namespace),
                    id_maps=id_maps and (id_maps[0], id_maps[1]),
                    dumped=_dumped(dumped),
                    resources=_resources(resources),
                    systemd_cgroup=systemd_cgroup,
                    own_keyring=own_keyring,
                )
        raise ValueError("fields are missing or of another type")

    def write(self, images_dir: Path) -> None:
        """Write both files of *images_dir*."""
        write_small(images_dir / RECORD_FILE, self.text())
        links = json.dumps([each.link for each in self.descriptors])
        write_small(images_dir / DESCRIPTORS_FILE, links.encode())

    def text(self) -> bytes:
        """What RECORD_FILE holds of it."""
        return json.dumps(self.to_json()).encode()


def load(
    images_dir: Path, container_id: str, *, known: Mapping[bytes, Record] | None = None
) -> Record:
    """The record of *images_dir*; where another runtime made the images, what their files say.

    known: records by their text, so that what is expected need not be read while somebody waits.
    Raises RestoreFailed, about *container_id*.
    """
    try:
        text = read_small(images_dir / RECORD_FILE)
        if text is not None and known and text in known:
            return known[text]
        if text is not None:
            return Record.from_json(json.loads(text))
        return _foreign(container_id, read_small(images_dir / DESCRIPTORS_FILE))
    except (ValueError, RecursionError, OSError) as exc:
        why = f"{images_dir / RECORD_FILE} cannot be used: {exc}"
        raise RestoreFailed(container_id, why) from exc


def spec_digest(spec: Mapping[str, Any]) -> str:
    """SHA-256 of a config.json, whatever its white space and order."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def _foreign(container_id: str, text: bytes | None) -> Record:
    links = [""] * len(STANDARD) if text is None else json.loads(text)
    match links:
        case [str(), str(), str()]:
            descriptors = tuple(_of_link(link) for link in links)
            return Record(container_id=container_id, spec_sha256="", descriptors=descriptors)
    raise ValueError(f"{DESCRIPTORS_FILE} is not a list of three strings")


def _of_link(link: str) -> Descriptor:
    try:
        return Descriptor(Kind.PIPE, link, link)
    except ValueError:
        return Descriptor(Kind.INSIDE, link)


def _networks(data: dict[str, Any]) -> Networks:
    try:
        return Networks.from_json(data)
    except InvalidNetwork as exc:
        raise ValueError(str(exc)) from exc


def _resources(data: dict[str, Any]) -> dict[str, Any]:
    """Limits as config.json may have them; never devices, which config.json alone allows."""
    try:
        parse_resources(data, Path("resources"))
    except InvalidSpec as exc:
        raise ValueError(str(exc)) from exc
    return {name: value for name, value in data.items() if name != "devices"}


def _submount(name: Any) -> str:
    """A way down from a bind mount's destination, and never up."""
    if not isinstance(name, str) or not name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} is not the path of a mount")
    return name


def _dumped(data: dict[str, Any]) -> Dumped:
    names = {field.name for field in fields(Dumped)}
    data = {"empty_network": False} | data  # records of former versions do not have it
    if data.keys() != names or not all(isinstance(value, bool) for value in data.values()):
        raise ValueError(f"'dumped' does not say true or false of {', '.join(sorted(names))}")
    return Dumped(**data)


def read_small(path: Path) -> bytes | None:
    """The content of a small file beside CRIU's images; None where there is none.

    Raises OSError, and ValueError where something else lies there that could be read for ever.
    """
    if not path.exists():
        return None
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path.name} is not a file of a size that it can have")
    return path.read_bytes()


def write_small(path: Path, text: bytes) -> None:
    """Write such a file. Raises OSError."""
    # not by write_atomic: its fsync would be paid while the container stands still, and an image
    # directory is only of use once its dump is complete
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(text)
