"""CVE-2019-5736: a container that overwrites the program that enters it, to be run by the host.

The interpreter that is attacked is a copy of the host's, in case the attack succeeds.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from runtime import Container, ContainerError
from runtime.interpreter import interpreter
from tests.bundles import CAPABILITIES
from tests.containers import Box, without_namespace
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

# With these root inside may look at every process of its pid namespace, and write to every file.
POWERS = [*CAPABILITIES, "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]
SETS = dict.fromkeys(("bounding", "effective", "permitted"), POWERS)

# attack PID: hold what the process runs, and write to it as soon as it does so no longer.
ATTACK = r"""
attack() {
    exec 3< "/proc/$1/exe" || return 1
    echo x >> /held
    for i in $(seq 50); do
        sleep 0.01
        ( echo "#!/bin/evil" > /proc/self/fd/3 ) 2>> /refused && echo "$1" >> /overwritten
    done
    exec 3<&-
}
"""
ON_ALL_BUT_OURS = """
while :; do
    for process in /proc/[0-9]*; do
        case $(readlink $process/exe) in
            *busybox* | "") ;;
            *) attack ${process#/proc/} ;;
        esac
    done
done 2> /dev/null
"""


@pytest.fixture
def copied(room: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The interpreter that containers are entered with: a file that nobody misses."""
    original = Path(os.path.realpath(interpreter()))
    copy = room / "python/bin" / original.name
    copy.parent.mkdir(parents=True)
    shutil.copy(original, copy)
    library = Path(sysconfig.get_path("stdlib"))
    (room / "python/lib").mkdir()
    (room / "python/lib" / library.name).symlink_to(library)
    monkeypatch.setattr(sys, "_base_executable", str(copy))
    assert subprocess.run([copy, "-I", "-S", "-c", "import json"], check=False).returncode == 0
    return copy


def lines(box: Box, name: str) -> list[str]:
    path = box.bundle.rootfs / name
    return path.read_text().splitlines() if path.exists() else []


def test_the_attack_overwrites_what_is_not_protected(box: Box) -> None:
    """Else the other tests would show nothing."""
    script = f"{ATTACK} cp /bin/busybox /busybox; /busybox sleep 0.3 & sleep 0.1; attack $!"
    box.shell(script, capabilities=SETS)
    assert lines(box, "overwritten")
    assert (box.bundle.rootfs / "busybox").read_text() == "#!/bin/evil\n"


def _is_refused(box: Box) -> bool:
    """Not only as long as it runs, which is "Text file busy"."""
    return any("Read-only file system" in line for line in lines(box, "refused"))


def test_who_is_executed_in_a_container_is_not_overwritten(box: Box, copied: Path) -> None:
    before = copied.read_bytes()
    box.program("sh", "-c", ATTACK + ON_ALL_BUT_OURS, capabilities=SETS)
    container = box.start()
    assert eventually(lambda: box.exec(container, "true") and _is_refused(box), timeout_s=30)
    assert not lines(box, "overwritten")
    assert copied.read_bytes() == before


def test_a_program_that_is_our_own_interpreter_cannot_write_to_it(box: Box, copied: Path) -> None:
    """`#!/proc/self/exe` has the kernel run the interpreter again, with libraries of the image.

    Here the image gives a dynamic linker that is a program of its own.
    """
    before = copied.read_bytes()
    evil = box.bundle.rootfs / "evil"
    evil.write_text("#!/proc/self/exe\n")
    evil.chmod(0o755)
    container = box.start("running")
    assert box.exec(container, "/evil; true").status == 0
    box.program("/evil")
    with pytest.raises(ContainerError, match="evil"):
        box.run()
    assert copied.read_bytes() == before


def test_what_waits_for_start_shows_nothing_to_who_shares_its_pids(box: Box, name: str) -> None:
    """Nor can it be traced: without CAP_SYS_PTRACE on the host root of a container may not."""
    first = box.start("first")
    namespaces = without_namespace(box.bundle.spec, "pid")
    path = f"/proc/{first.state.init_pid}/ns/pid"
    box.update(linux={"namespaces": [*namespaces, {"type": "pid", "path": path}]})
    waiting = box.create("waiting")
    status = Path(f"/proc/{waiting.state.init_pid}/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("NSpid:")]
    pid = line.split()[-1]
    script = f"cd /proc/{pid}; for f in fd/* exe root cwd; do readlink $f; done; cat environ maps"
    outcome = box.exec(Container.load(box.root, first.id), script)
    waiting.delete(force=True)  # before the other, which ends when all in its namespace have
    assert outcome.out == ""
    assert outcome.err.count("Permission denied") == 2
