"""The session keyring of a container's processes, and labels that the host does not know."""

import errno
import os
from pathlib import Path

import pytest

from migrator import cli
from runtime import UnsupportedField
from runtime.constants import AT_FDCWD, CLONE_NEWNS, MS_PRIVATE
from runtime.process import labels
from runtime.syscalls import mount_setattr, move_mount, open_tree, unshare
from tests.bundles import merged
from tests.containers import Box
from tests.migratory import Migratory
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

# Its owner may search it, as those must that join.
OWN = "3f1b0000"


def keyrings(name: str) -> list[str]:
    """The permissions of the session keyrings of container *name* (proc_keys(5))."""
    lines = Path("/proc/keys").read_text().splitlines()
    return [line.split()[4] for line in lines if f" _ses.{name}: " in line]


def test_the_session_keyring_is_the_containers_and_shared_by_its_processes(box: Box) -> None:
    container = box.start()
    assert keyrings(box.id) == [OWN]
    box.exec(container, "true")
    assert keyrings(box.id) == [OWN]
    container.delete(force=True)
    assert eventually(lambda: not keyrings(box.id))


def test_without_a_new_keyring_none_is_made(box: Box) -> None:
    box.exec(box.start(new_keyring=False), "true")
    assert keyrings(box.id) == []


@pytest.mark.needs_criu
def test_what_is_restored_is_in_a_session_keyring_of_its_own(migratory: Migratory) -> None:
    migratory.start().checkpoint()
    assert eventually(lambda: not keyrings(migratory.box.id))
    container = migratory.restore()
    # criu has ended: it is there because the container's processes hold it
    assert keyrings(container.id) == [OWN]
    migratory.box.exec(container, "true")
    assert keyrings(container.id) == [OWN]


@pytest.mark.needs_criu
def test_what_had_no_keyring_of_its_own_is_restored_without(migratory: Migratory) -> None:
    migratory.start(new_keyring=False).checkpoint()
    migratory.box.exec(migratory.restore(), "true")
    assert keyrings(migratory.box.id) == []


@pytest.mark.parametrize("options", [(), ("--no-new-keyring",)])
def test_the_command_line_says_whether_one_is_made(box: Box, options: tuple[str, ...]) -> None:
    command = ("create", *options, "--bundle", str(box.bundle.path), box.id)
    assert cli.run(["--root", str(box.root), *command]) == 0
    assert bool(keyrings(box.id)) is not bool(options)


WITHOUT_APPARMOR = pytest.mark.needs_no_apparmor
WITHOUT_SELINUX = [pytest.mark.vm, pytest.mark.needs_no_selinux]


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        pytest.param(
            {"process": {"apparmorProfile": "mig-test"}},
            "process.apparmorProfile: AppArmor",
            marks=WITHOUT_APPARMOR,
        ),
        pytest.param(
            {"process": {"selinuxLabel": "a:b:c:s0"}},
            "process.selinuxLabel: SELinux",
            marks=WITHOUT_SELINUX,
        ),
        pytest.param(
            {"linux": {"mountLabel": "a:b:c:s0"}},
            "linux.mountLabel: SELinux",
            marks=WITHOUT_SELINUX,
        ),
    ],
)
@pytest.mark.usefixtures("traceless")
def test_a_label_that_nothing_enforces_here_is_refused_by_name(
    box: Box, sections: dict[str, dict[str, str]], field: str
) -> None:
    box.update(**sections)
    with pytest.raises(UnsupportedField, match=f"{field} is not enabled on this host"):
        box.create()


@pytest.mark.parametrize(
    ("field", "label"),
    [
        pytest.param("apparmorProfile", "mig-test", marks=WITHOUT_APPARMOR),
        pytest.param("selinuxLabel", "a:b:c:s0", marks=WITHOUT_SELINUX),
    ],
)
def test_a_further_process_has_the_labels_of_the_container_whoever_adds_it(
    box: Box, field: str, label: str
) -> None:
    container = box.start()
    config = merged(container.state.spec, {"process": {field: label}})
    container.state._replace(spec=config).save(container.dir)
    with pytest.raises(UnsupportedField, match=f"process.{field}: .* is not enabled on this"):
        box.exec(container, "true", apparmor_profile="", selinux_label="")


def test_without_apparmor_unconfined_asks_for_nothing(box: Box) -> None:
    assert box.shell("echo ran", apparmorProfile="unconfined").out == "ran\n"


def test_no_label_is_written_to_what_is_mounted_over_the_proc_filesystem(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            unshare(CLONE_NEWNS)
            mount_setattr(AT_FDCWD, "/", propagation=MS_PRIVATE, recursive=True)
            (tmp_path / "fake").write_text("")
            target_fd = os.open(f"/proc/{os.getpid()}/attr/exec", os.O_PATH)
            move_mount(open_tree(AT_FDCWD, str(tmp_path / "fake")), target_fd)
            proc_fd = os.open("/proc", os.O_PATH)
            try:
                labels.write_verified(proc_fd, "self/attr/exec", "x")
            except OSError as exc:
                status = 0 if exc.errno == errno.EXDEV else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
