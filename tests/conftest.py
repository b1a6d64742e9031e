"""Fixtures of all levels: rooms of the session's own, bundles, fresh namespaces and cgroups."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrator.lab import lab as labs
from tests import bundles, leftovers
from tests.lab.hosts import TwoHosts

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers() -> Iterator[None]:
    if os.geteuid() == 0:
        leftovers.sweep(leftovers.orphaned)
    yield
    if os.geteuid() == 0:
        leftovers.sweep(leftovers.mine)


@pytest.fixture
def name() -> str:
    """A name that nothing else on this machine bears, swept with all that bears it."""
    return leftovers.own(str(next(_numbers)))


@pytest.fixture
def room(name: str) -> Iterator[Path]:
    """An empty directory with a path short enough for sockets in it."""
    path = Path(tempfile.gettempdir(), name)
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def state_root(room: Path) -> Path:
    """Where a runtime under test keeps its state, instead of /run/migrator."""
    path = room / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def bundle(room: Path) -> Callable[..., bundles.Bundle]:
    """Makes busybox bundles: `bundle("sh", "-c", "...")`; the name is the directory's."""

    def make(*args: str, name: str = "bundle") -> bundles.Bundle:
        return bundles.make(room / name, *args)

    return make


@pytest.fixture
def cgroups_path(name: str) -> Iterator[str]:
    """A path for linux.cgroupsPath; what is left below it is killed and removed."""
    yield f"/{name}"
    for cgroup in leftovers.cgroups(lambda found: found == name):
        leftovers.remove_cgroup(cgroup)


@pytest.fixture
def fresh_netns(name: str) -> Iterator[Path]:
    """A network namespace with nothing but lo, down; its path."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield leftovers.NETNS / name
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture(scope="session")
def lab() -> Iterator[labs.Lab]:
    """A lab of this session's own, with cables as fast as the machine."""
    with labs.up(leftovers.own("lab"), bandwidth="off", owned=True) as up:
        yield up


@pytest.fixture
def two_hosts(lab: labs.Lab) -> Iterator[TwoHosts]:
    """The hosts of the lab; what a test leaves in them is removed when it ends."""
    hosts = TwoHosts(lab)
    yield hosts
    for host in lab.hosts:
        script = (  # `migrator list` takes a good while longer
            "for id in $(ls /run/migrator 2>/dev/null | grep -vx migrations); do "
            'migrator delete --force "$id"; done; rm -rf /srv/*'
        )
        host.run("sh", "-c", script, check=False)
