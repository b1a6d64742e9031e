"""Containers for root tests: made from a bundle, watched from outside, always removed."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from typing import Any, TypeVar

from runtime import Container, Stdio
from runtime.syscalls import unshare
from tests import leftovers
from tests.bundles import Bundle, Spec

CLONE_FILES = 0x400  # <linux/sched.h>
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """What a program in a container did."""

    status: int
    out: str
    err: str


@dataclass
class Box:
    """A state root with one bundle; `update` changes the spec, the verbs are Container's."""

    root: Path
    id: str
    bundle: Bundle
    made: list[str] = field(default_factory=list)

    def update(self, **sections: Any) -> None:
        self.bundle.update(**sections)

    def program(self, *args: str, **process: Any) -> None:
        """Have the container run *args*; *process* changes the rest of the spec's process."""
        self.update(process={"args": list(args), **process})

    def shell(self, script: str, **process: Any) -> Outcome:
        """Run *script* in a container of its own, from create to delete."""
        self.program("sh", "-c", script, **process)
        return self.run()

    def run(self, **options: Any) -> Outcome:
        out, err = self.bundle.path / "out", self.bundle.path / "err"
        for path in (out, err):
            path.unlink(missing_ok=True)
        stdio = Stdio(None, out, err)
        status = Container.run(self.root, self.id, self.bundle.path, stdio=stdio, **options)
        return Outcome(status, out.read_text(), err.read_text())

    def create(self, name: str = "", **options: Any) -> Container:
        container_id = self.id + name
        self.made.append(container_id)
        return Container.create(self.root, container_id, self.bundle.path, **options)

    def start(self, name: str = "", **options: Any) -> Container:
        container = self.create(name, **options)
        container.start()
        return container

    def exec(self, container: Container, script: str, **process: Any) -> Outcome:
        """Run *script* as a further process, with the spec's process changed by *process*."""
        out, err = self.bundle.path / "exec-out", self.bundle.path / "exec-err"
        for path in (out, err):
            path.unlink(missing_ok=True)
        changed = container.spec.process._replace(args=("sh", "-c", script), **process)
        status = container.exec(changed, stdio=Stdio(None, out, err))
        return Outcome(status, out.read_text(), err.read_text())

    def remove_all(self) -> None:
        for container_id in (self.id, *self.made):
            Container.remove(self.root, container_id, force=True)


@dataclass(frozen=True)
class Traces:
    """All that a container of this session could leave here, but for the files of its bundle."""

    processes: frozenset[str]
    mounts: tuple[str, ...]
    cgroups: frozenset[str]
    descriptors: frozenset[str]
    state: tuple[str, ...]

    @classmethod
    def now(cls, root: Path) -> "Traces":
        return cls(
            processes=_children(),
            mounts=tuple(filter(leftovers.mine, leftovers.mount_points())),
            cgroups=frozenset(map(str, leftovers.cgroups(leftovers.mine))),
            descriptors=frozenset(os.listdir("/proc/self/fd")),
            state=tuple(sorted(map(str, root.rglob("*")))),
        )


def _children() -> frozenset[str]:
    return frozenset(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def with_descriptors(fds: list[int], do: Callable[[], Result]) -> Result:
    """What *do* returns where the descriptors from 3 on are *fds*.

    In a thread with a table of its own (unshare(2)): pytest and pytest-xdist use theirs meanwhile.
    """

    def work() -> Result:
        unshare(CLONE_FILES)
        copies = [fcntl(fd, F_DUPFD_CLOEXEC, 3 + len(fds)) for fd in fds]
        for number, copy in enumerate(copies, 3):
            os.dup2(copy, number)
        return do()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def without_namespace(spec: Spec, *kinds: str) -> list[dict[str, str]]:
    """The namespaces of *spec* but those of *kinds*."""
    return [each for each in spec["linux"]["namespaces"] if each["type"] not in kinds]
