"""Fixtures of tests in which other programs call the runtime."""

import hashlib
import json
import platform
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.clients.apart import MIGRATOR, Apart, Done, apart

#: what images call this machine
PLATFORM = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest) -> Iterator[Apart]:
    """A place for the client of this module."""
    with apart(request.module.__name__.rpartition("_")[2]) as place:
        yield place


class OfImages(ABC):
    """A client that makes containers from images, asked as docker(1) is."""

    #: how a container is removed at once, with its processes
    remove: tuple[str, ...] = ("rm", "--force")
    #: what each container is to be made with
    box: tuple[str, ...] = ("--network", "none")

    @abstractmethod
    def __call__(self, *arguments: str) -> Done:
        """Run one of its commands."""

    def take_image(self, place: Apart) -> Self:
        """Have the rootfs in the room of *place* as the image `box`."""
        imported = self("import", str(place.room / "rootfs.tar"), "box")
        assert imported.returncode == 0, imported.stderr
        return self

    def status(self, container: str) -> str:
        """What it says that a container is doing."""
        return self("inspect", "--format", "{{.State.Status}}", container).stdout.strip()

    @contextmanager
    def sleeper(self) -> Iterator[str]:
        """A container that does nothing."""
        named = ("--detach", "--name", "sleeper", *self.box)
        started = self("run", *named, "box", "sleep", "inf")
        assert started.returncode == 0, started.stderr
        yield "sleeper"
        assert self(*self.remove, "sleeper").returncode == 0


class Podman(OfImages):
    """podman(1) with storage and settings of its own."""

    remove = ("rm", "--force", "--time", "0")
    # It asks for more than the hard limit of a root without CAP_SYS_RESOURCE.
    box = (*OfImages.box, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")

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


def oci_archive(room: Path, name: str) -> Path:
    """The rootfs in *room* as an image of that *name*, as image-spec image-layout.md has it."""
    layout = room / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)

    def blob(kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(content)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    layer = blob("layer.v1.tar", (room / "rootfs.tar").read_bytes())
    config = {
        "architecture": PLATFORM,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    parts = {"config": blob("config.v1+json", json.dumps(config).encode()), "layers": [layer]}
    manifest = json.dumps({"schemaVersion": 2, **parts}).encode()
    named = {"annotations": {"io.containerd.image.name": name}}
    index = {"schemaVersion": 2, "manifests": [blob("manifest.v1+json", manifest) | named]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    subprocess.run(["tar", "-C", layout, "-cf", room / "image.tar", "."], check=True)
    return room / "image.tar"


class Docker(OfImages):
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
