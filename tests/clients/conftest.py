"""Fixtures of tests in which other programs call the runtime."""

from collections.abc import Iterator

import pytest

from tests.clients.apart import MIGRATOR, Apart, Done, apart


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest) -> Iterator[Apart]:
    """A place for the client of this module."""
    with apart(request.module.__name__.rpartition("_")[2]) as place:
        yield place


class Podman:
    """podman(1) with storage and settings of its own."""

    def __init__(self, place: Apart) -> None:
        self._place = place
        room = place.room
        self._argv = (
            "podman",
            *("--root", str(room / "storage"), "--runroot", str(room / "run")),
            *("--tmpdir", str(room / "tmp"), "--storage-driver", "vfs"),
            *("--cgroup-manager", "cgroupfs", "--events-backend", "file"),
            *("--runtime", str(MIGRATOR)),
        )

    def __call__(self, *arguments: str) -> Done:
        return self._place.run(*self._argv, *arguments)


class Ctr:
    """ctr(8), asking a containerd of its own."""

    def __init__(self, place: Apart) -> None:
        self._place = place
        room = place.room
        self._socket = room / "containerd.sock"
        (room / "containerd.toml").write_text(
            f'version = 2\nroot = "{room}/root"\nstate = "{room}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
            f'[grpc]\naddress = "{self._socket}"\n[ttrpc]\naddress = "{self._socket}.ttrpc"\n'
        )
        place.daemon(
            *("containerd", "--config", room / "containerd.toml"),
            ready=lambda: self("version").returncode == 0,
        )

    def __call__(self, *arguments: str) -> Done:
        return self._place.run("ctr", "--address", self._socket, *arguments)

    def run(self, *options: str, name: str, command: tuple[str, ...]) -> Done:
        """`ctr run` of a container that the runtime makes from the rootfs in the room."""
        runtime = ("--runtime", "io.containerd.runc.v2", "--runc-binary", str(MIGRATOR))
        rootfs = str(self._place.room / "bundle/rootfs")
        return self("run", *options, *runtime, "--rootfs", rootfs, name, *command)


class Docker:
    """docker(1), asking a dockerd of its own that has no other runtime by default."""

    def __init__(self, place: Apart) -> None:
        self._place = place
        room = place.room
        self._host = f"unix://{room}/docker.sock"
        place.daemon(
            *("dockerd", "--host", self._host, "--pidfile", room / "dockerd.pid"),
            *("--data-root", room / "data", "--exec-root", room / "exec"),
            *("--storage-driver", "vfs", "--iptables=false", "--bridge=none"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs", "--experimental"),
            *("--add-runtime", f"migrator={MIGRATOR}", "--default-runtime", "migrator"),
            ready=lambda: self("version").returncode == 0,
        )

    def __call__(self, *arguments: str) -> Done:
        return self._place.run("docker", "--host", self._host, *arguments)
