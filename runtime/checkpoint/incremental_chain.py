"""The chain of image directories that incremental checkpoints make, and what ties them together.

CRIU finds the next older directory by the link `parent`, relative to the newer one. Beside CRIU's
images each directory has `chain.json`: whose memory it is, a token that nothing else bears, and the
token of its parent: a parent that was written anew is none any more.
The keeper (runtime.memory.keeper) says what was written since a token's directory was made.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

from criu_rpc import BadImages, images
from criu_rpc.images import PARENT
from criu_rpc.memory_images import PE_PARENT, PE_PRESENT, read_pagemap
from runtime.checkpoint.records import CHAIN_FILE, read_small, write_small
from runtime.errors import CheckpointFailed
from runtime.memory.runs import Run, normalized
from runtime.state import State

_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Link:
    """What chain.json says: which run of which container the directory is of."""

    container_id: str
    #: with the init's start time: this run, and no later one after a restore (random(4))
    boot_id: str
    init_start_time: int
    token: str
    #: token of the directory that it is incremental to, "" where it is whole
    parent: str

    @classmethod
    def new(cls, state: State, parent: Parent | None) -> Self:
        """For a directory that is about to be written."""
        boot_id = _BOOT_ID.read_text().strip()
        below = parent.token if parent else ""
        return cls(state.id, boot_id, state.init_start_time, token_hex(16), below)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Raises BadImages: it is no directory of a pre-dump."""
        path = directory / CHAIN_FILE
        try:
            text = read_small(path)
            if text is None:
                raise BadImages(directory, f"has no {CHAIN_FILE}: it is of no --pre-dump")
            return cls._of(json.loads(text))
        except OSError as exc:
            raise BadImages(path, f"cannot be read: {exc.strerror}") from exc
        except (ValueError, RecursionError) as exc:
            raise BadImages(path, f"cannot be used: {exc}") from exc

    @classmethod
    def _of(cls, data: Any) -> Self:
        match data:
            case {
                "version": version,
                "container_id": str(),
                "boot_id": str(),
                "init_start_time": int(),
                "token": str(),
                "parent": str(),
                **rest,
            } if version == _VERSION and not rest:
                return cls(**{each.name: data[each.name] for each in fields(cls)})
        raise ValueError(f"it is not of format version {_VERSION}")

    def write(self, directory: Path) -> None:
        """Write chain.json of *directory*, in place of another. Raises OSError."""
        path = directory / CHAIN_FILE
        path.unlink(missing_ok=True)
        write_small(path, json.dumps({"version": _VERSION, **asdict(self)}).encode())

    def same_run(self, other: Link) -> bool:
        """Whether both are of one container, not restored in between."""
        ours = (self.container_id, self.boot_id, self.init_start_time)
        return ours == (other.container_id, other.boot_id, other.init_start_time)


@dataclass(frozen=True, slots=True)
class Parent:
    """The directory of the pre-dump before."""

    #: as the link has it, relative to the new directory
    path: str
    directory: Path
    token: str

    @classmethod
    def find(cls, state: State, images_dir: Path, path: str) -> Self:
        """The directory at *path*, seen from *images_dir*, which need not be there yet.

        Raises CheckpointFailed: it is no directory of a pre-dump of this run of the container, or
        the new one is part of its chain.
        """
        if os.path.isabs(path):
            why = f"--parent-path {path}: it has to be relative to the image path"
            raise CheckpointFailed(state.id, why)
        directory = (images_dir.resolve() / path).resolve()
        try:
            chain = images.chain(directory)
            link = Link.load(directory)
            check_links(directory)
        except BadImages as exc:
            raise CheckpointFailed(state.id, f"--parent-path {path}: {exc}") from exc
        if not link.same_run(Link.new(state, None)):
            whose = f"container {link.container_id}"
            if link.container_id == state.id:
                whose = "an earlier run of this container"
            why = f"--parent-path {path}: it is of {whose}; begin a chain without --parent-path"
            raise CheckpointFailed(state.id, why)
        if any(_same(images_dir, each) for each in chain):
            why = f"image path {images_dir}: it is part of the chain of {path} itself"
            raise CheckpointFailed(state.id, why)
        return cls(path, directory, link.token)

    def runs(self, vpid: int) -> list[Run]:
        """Pages of a process that are in it, or in the directories below. Raises BadImages."""
        path = self.directory / f"pagemap-{vpid}.img"
        if not path.exists():
            return []
        _, entries = read_pagemap(path)
        there = (each for each in entries if each.flags & (PE_PARENT | PE_PRESENT))
        return normalized((each.address, each.end) for each in there)

    def link(self, images_dir: Path) -> None:
        """Make the link, in place of another. Raises OSError."""
        path = images_dir / PARENT
        path.unlink(missing_ok=True)
        path.symlink_to(self.path)


def check_links(images_dir: Path) -> None:
    """Raise BadImages when a directory of the chain was written anew since a later one was.

    What the later one lacks would be taken from other memory. Directories of another program's
    making tell nothing, and pass.
    """
    chain = images.chain(images_dir)
    for newer, older in pairwise(chain):
        if (newer / CHAIN_FILE).exists():
            has = Link.load(older).token if (older / CHAIN_FILE).exists() else ""
            if has != Link.load(newer).parent:
                why = f"is not what it was when {newer.resolve()} was written"
                raise BadImages(older.resolve(), why)


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)
