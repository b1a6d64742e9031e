"""Containers under AppArmor profiles that the tests load: apparmor(7), apparmor.d(5)."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from migrator import cli
from runtime import RestoreFailed, SetupFailed
from runtime.features import features
from tests.containers import Box
from tests.migratory import Migratory

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_apparmor]

# It may do everything but touch the one file.
PROFILE = """
profile {name} flags=(attach_disconnected, mediate_deleted) {{
  file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,
  deny /tmp/{denied} rw,
}}
"""
LABEL = "cat /proc/self/attr/apparmor/current"
TRY = f"{LABEL}; for file in /tmp/a /tmp/b; do echo >$file && echo $file; done; true"

Load = Callable[[str], str]


def parse(profile: str, action: str) -> None:
    command = ["apparmor_parser", "--skip-cache", action]
    subprocess.run(command, input=profile, text=True, check=True)


def loaded(profile: str) -> bool:
    profiles = Path("/sys/kernel/security/apparmor/profiles").read_text()
    return f"{profile} (enforce)\n" in profiles


def unload(profile: str) -> None:
    if loaded(profile):
        parse(PROFILE.format(name=profile, denied=""), "--remove")


@pytest.fixture
def load(name: str) -> Iterator[Load]:
    """Loads the profile that denies /tmp/WHICH, and gives its name."""
    with ExitStack() as stack:

        def load(which: str) -> str:
            profile = f"{name}-{which}"
            parse(PROFILE.format(name=profile, denied=which), "--replace")
            stack.callback(unload, profile)
            return profile

        yield load


def enforced(profile: str, *written: str) -> str:
    """What TRY says under *profile*, where it may write *written*."""
    return "".join(f"{line}\n" for line in (f"{profile} (enforce)", *written))


def test_a_container_is_confined_by_its_profile(box: Box, load: Load) -> None:
    profile = load("a")
    outcome = box.shell(TRY, apparmorProfile=profile)
    assert outcome.out == enforced(profile, "/tmp/b")
    assert "Permission denied" in outcome.err


@pytest.mark.parametrize(
    "process", [{"noNewPrivileges": False}, {"user": {"uid": 1000, "gid": 1000}}]
)
def test_whoever_it_is_and_may_become(box: Box, load: Load, process: dict[str, Any]) -> None:
    profile = load("a")
    (box.bundle.rootfs / "tmp").chmod(0o777)
    outcome = box.shell(TRY, apparmorProfile=profile, **process)
    assert outcome.out == enforced(profile, "/tmp/b")


def test_a_further_process_has_the_profile_of_the_container_or_its_own(
    box: Box, load: Load
) -> None:
    own, other = load("a"), load("b")
    box.program("sleep", "inf", apparmorProfile=own)
    container = box.start()
    assert box.exec(container, TRY).out == enforced(own, "/tmp/b")
    assert box.exec(container, TRY, apparmor_profile="").out == enforced(own, "/tmp/b")
    assert box.exec(container, TRY, apparmor_profile=other).out == enforced(other, "/tmp/a")


def test_exec_takes_a_profile_as_an_option(
    box: Box, load: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    profile = load("a")
    container = box.start()
    command = ("exec", "--apparmor", profile, container.id, "sh", "-c", TRY)
    assert cli.run(["--root", str(box.root), *command]) == 0
    assert capfd.readouterr().out == enforced(profile, "/tmp/b")


@pytest.mark.usefixtures("traceless")
def test_a_profile_that_is_not_loaded_is_named(box: Box, name: str) -> None:
    box.program("true", apparmorProfile=name)
    with pytest.raises(SetupFailed, match=f"no AppArmor profile {name} is loaded"):
        box.create()


def test_unconfined_is_what_it_says(box: Box) -> None:
    assert box.shell(LABEL, apparmorProfile="unconfined").out == "unconfined\n"
    assert box.shell(LABEL).out == "unconfined\n"


@pytest.mark.needs_criu
def test_what_is_restored_is_confined_as_before(migratory: Migratory, load: Load) -> None:
    profile = load("a")
    migratory.box.update(process={"apparmorProfile": profile})
    migratory.start().checkpoint()
    container = migratory.restore()
    assert migratory.counts()
    label = Path(f"/proc/{container.state.init_pid}/attr/apparmor/current")
    assert label.read_text() == f"{profile} (enforce)\n"
    assert migratory.box.exec(container, TRY).out == enforced(profile, "/tmp/b")


@pytest.mark.needs_criu
def test_a_restore_where_the_profile_is_not_loaded_names_it(
    migratory: Migratory, load: Load
) -> None:
    profile = load("a")
    migratory.box.update(process={"apparmorProfile": profile})
    migratory.start().checkpoint()
    unload(profile)
    with pytest.raises(RestoreFailed, match=f"AppArmor profile {profile} is not loaded"):
        migratory.restore()
    load("a")
    migratory.restore()
    assert migratory.counts()


def test_features_tell_of_it() -> None:
    assert features()["linux"]["apparmor"] == {"enabled": True}
