"""CVE-2024-21626: descriptors of the host that a container comes by, as its cwd or its program.

Every number that may be open while a container is entered is tried, by every path that an image or
a caller of exec may choose.
"""

import os
import shutil
from pathlib import Path

import pytest

from runtime import Container, ContainerError
from tests.bundles import CAPABILITIES
from tests.containers import Box
from tests.probes import program

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

NUMBERS = range(3, 14)
UP = "/.." * 16


@pytest.fixture
def secret(room: Path) -> Path:
    """A program of the host that no container can see."""
    busybox = program("busybox")
    assert busybox
    (room / "secret").mkdir()
    return Path(shutil.copy(busybox, room / "secret/busybox"))


@pytest.fixture
def hunting(box: Box) -> Box:
    """A container whose root may go everywhere that it finds a way to."""
    powers = [*CAPABILITIES, "CAP_DAC_OVERRIDE"]
    sets = dict.fromkeys(("bounding", "effective", "permitted"), powers)
    box.update(process={"capabilities": sets})
    return box


@pytest.mark.parametrize("number", NUMBERS)
def test_no_descriptor_is_a_way_to_a_program_of_the_host(
    hunting: Box, secret: Path, number: int
) -> None:
    path = f"/proc/self/fd/{number}{UP}{secret}"
    hunting.program(path, "echo", "escaped")
    with pytest.raises(ContainerError):
        hunting.run()
    (hunting.bundle.rootfs / "script").write_text(f"#!{path} echo\n")
    (hunting.bundle.rootfs / "script").chmod(0o755)
    hunting.program("/script")
    with pytest.raises(ContainerError):
        hunting.run()


def test_nor_for_what_is_executed_in_it(hunting: Box, secret: Path) -> None:
    container = hunting.start()
    for number in NUMBERS:
        process = container.spec.process._replace(
            args=(f"/proc/self/fd/{number}{UP}{secret}", "echo", "escaped")
        )
        with pytest.raises(ContainerError):
            container.exec(process)


def test_no_descriptor_is_a_working_directory(hunting: Box, secret: Path) -> None:
    container = hunting.start("running")
    for number in NUMBERS:
        (hunting.bundle.rootfs / "link").unlink(missing_ok=True)
        (hunting.bundle.rootfs / "link").symlink_to(f"/proc/self/fd/{number}")
        for cwd in (f"/proc/self/fd/{number}", "/link", f"/proc/self/fd/{number}{UP}", "/link/."):
            with pytest.raises(ContainerError):
                hunting.exec(container, f"ls ..{UP}{secret}", cwd=cwd)


@pytest.mark.parametrize("number", NUMBERS[:4])
def test_nor_of_the_first_process(hunting: Box, number: int) -> None:
    hunting.program("ls", cwd=f"/proc/self/fd/{number}")
    with pytest.raises(ContainerError):
        hunting.run()


def test_a_process_has_the_standard_descriptors_alone(hunting: Box) -> None:
    listing = "ls -l /proc/self/fd /proc/1/fd | grep -- '->' | grep -v ' 3 -> /proc/[0-9]*/fd'"
    paths = "sed 's/.*-> //' | grep -v '^/dev/null$' | sort -u"
    outcome = hunting.shell(f"{listing} | {paths}")
    ours = {str(hunting.bundle.path / name) for name in ("out", "err")}
    assert all(line in ours or line.startswith("pipe:") for line in outcome.out.split())


def test_what_the_caller_has_open_does_not_come_along(box: Box, secret: Path) -> None:
    """Callers such as the original finder's had a cgroup directory open, and inheritable."""
    leaked_fd = os.open("/", os.O_PATH)
    os.set_inheritable(leaked_fd, True)
    try:
        box.program("ls", "/proc/self/fd")
        assert set(box.run().out.split()) <= {"0", "1", "2", "3"}
        box.program("sleep", "inf")
        container: Container = box.start()
        assert box.exec(container, "ls /proc/$$/fd; true").out.split() == ["0", "1", "2"]
        process = container.spec.process._replace(
            args=(f"/proc/self/fd/{leaked_fd}{UP}{secret}", "echo")
        )
        with pytest.raises(ContainerError):
            container.exec(process)
    finally:
        os.close(leaked_fd)
