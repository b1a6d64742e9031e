"""The runtimes that are compared, and one container of one of them at a time."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.bundles import NAMESPACES, Bundle, make

TIMEOUT_S = 10
NAMES = ("migrator", "runc", "crun")


class Answer(NamedTuple):
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its output as JSON; ValueError has what it said instead."""
        if self.code:
            raise ValueError(f"exit code {self.code}: {self.err.strip()[-300:]}")
        return json.loads(self.out)


@dataclass(frozen=True)
class Runtime:
    """One of them, with a state root of its own and one bundle, made anew for each case."""

    name: str
    path: str
    directory: Path
    bundle: Bundle

    @property
    def id(self) -> str:
        """The container's."""
        return f"migrator-conformance-{self.name}"

    def __call__(self, *args: str, timeout_s: float = TIMEOUT_S) -> Answer:
        """Run a command of it, in the bundle's directory."""
        output = [self.directory / name for name in ("out", "err")]
        with output[0].open("wb") as out, output[1].open("wb") as err:
            # Files and no pipes: a container that is left running keeps what it was given.
            process = subprocess.Popen(
                [self.path, "--root", str(self.directory / "state"), *args],
                cwd=self.bundle.path,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            with process:
                code = _wait(process, timeout_s)
        return Answer(code, *(path.read_text(errors="replace") for path in output))

    def configure(self, **sections: Any) -> None:
        """Change the bundle's config.json."""
        self.bundle.update(**sections)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    """The exit code. subprocess would look whether it has ended, and every 50 ms in the end."""
    pidfd = os.pidfd_open(process.pid)
    try:
        ended, _, _ = select.select([pidfd], [], [], timeout_s)
    finally:
        os.close(pidfd)
    if not ended:
        process.kill()
        raise subprocess.TimeoutExpired(process.args, timeout_s)
    return process.wait()


def version_of(path: str) -> str:
    """The first line that the runtime there says of itself."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return said.stdout.splitlines()[0] if said.stdout else "unknown version"


def found(given: dict[str, str]) -> dict[str, str | None]:
    """Name and path of each; None for one that is not installed. *given* paths come first."""
    own = str(Path(sys.executable).parent / "migrator")
    search = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    default = {name: shutil.which(name, path=search) for name in NAMES} | {"migrator": own}
    return default | given


def working(
    paths: dict[str, str | None], directory: Path, say: Callable[[str], None]
) -> dict[str, str]:
    """Those that are installed, and run a container here; the others are told by name."""
    able = {}
    for name, path in paths.items():
        if path is None:
            say(f"{name}: not installed, left out")
            continue
        with fresh(name, path, directory / name) as runtime:
            say(f"{name}: {version_of(path)}, {path}")
            runtime.configure(process={"args": ["true"]})
            answer = runtime("run", runtime.id)
        if answer.code:
            say(f"{name}: runs no container on this machine, left out: {answer.err.strip()}")
        else:
            able[name] = path
    return able


@contextmanager
def fresh(name: str, path: str, directory: Path) -> Iterator[Runtime]:
    """The runtime with an untouched bundle; its containers are removed afterwards."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "state").mkdir(parents=True)
    runtime = Runtime(name, path, directory, make(directory / "bundle"))
    # What each of them has known for years.
    runtime.configure(
        ociVersion="1.0.2",
        linux={
            "cgroupsPath": f"/migrator-conformance-{os.getpid()}-{name}",
            "namespaces": [{"type": kind} for kind in NAMESPACES if kind != "time"],
        },
    )
    try:
        yield runtime
    finally:
        for each in runtime("list", "-q").out.split():
            runtime("delete", "--force", each)
