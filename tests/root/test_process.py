"""What a container's process is: seen from inside, by busybox."""

import os
import resource
from pathlib import Path

import pytest

from runtime import Container, SetupFailed, Stdio
from tests.containers import Box, with_descriptors
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

SIGPIPE, SIGXFSZ = 13, 25


def status_of(text: str) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def test_the_environment_is_that_of_the_spec_and_nothing_else(box: Box) -> None:
    box.program("env", env=["PATH=/bin", "A=1", "B=a=b", "A=2"])
    assert sorted(box.run().out.splitlines()) == ["A=2", "B=a=b", "HOME=/root", "PATH=/bin"]


def test_home_comes_from_the_containers_own_passwd(box: Box) -> None:
    assert box.shell("echo $HOME", user={"uid": 1000, "gid": 1000}).out == "/tmp\n"
    assert box.shell("echo $HOME", user={"uid": 4711, "gid": 0}).out == "/\n"
    assert box.shell("echo $HOME", env=["PATH=/bin", "HOME=/x"]).out == "/x\n"


def test_a_passwd_that_is_no_file_does_no_harm(box: Box) -> None:
    (box.bundle.rootfs / "etc/passwd").unlink()
    os.mkfifo(box.bundle.rootfs / "etc/passwd")
    assert box.shell("echo $HOME").out == "/\n"


def test_the_process_is_the_user_of_the_spec(box: Box) -> None:
    user = {"uid": 1000, "gid": 100, "additionalGids": [5, 6], "umask": 0o27}
    outcome = box.shell("id -u; id -g; id -G; umask", user=user)
    assert outcome.out.splitlines() == ["1000", "100", "100 5 6", "0027"]


def test_the_umask_does_not_depend_on_the_callers(box: Box) -> None:
    former = os.umask(0)
    try:
        assert box.shell("umask").out == "0022\n"
    finally:
        os.umask(former)


def test_the_working_directory_is_made_and_entered(box: Box) -> None:
    assert box.shell("pwd", cwd="/new/deep").out == "/new/deep\n"
    assert (box.bundle.rootfs / "new/deep").is_dir()


def test_a_directory_that_only_root_may_enter_can_be_the_working_directory(box: Box) -> None:
    (box.bundle.rootfs / "locked").mkdir(mode=0o700)
    assert box.shell("pwd", cwd="/locked", user={"uid": 1000, "gid": 0}).out == "/locked\n"


def test_each_capability_set_is_that_of_the_spec(box: Box) -> None:
    sets = {
        "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SYS_ADMIN"],
        "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "inheritable": ["CAP_KILL", "CAP_CHOWN"],
        "effective": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    user = {"uid": 1000, "gid": 1000}
    box.program("cat", "/proc/self/status", capabilities=sets, user=user)
    status = status_of(box.run().out)
    kill, chown, admin = 1 << 5, 1, 1 << 21
    assert int(status["CapBnd"], 16) == kill | chown | admin
    assert int(status["CapInh"], 16) == kill | chown
    assert int(status["CapAmb"], 16) == kill
    # A user's exec keeps of the others only what is ambient (capabilities(7)).
    assert int(status["CapPrm"], 16) == kill
    assert int(status["CapEff"], 16) == kill


def test_without_capabilities_root_has_none(box: Box) -> None:
    spec = box.bundle.spec
    del spec["process"]["capabilities"]
    box.bundle.write(spec)
    status = status_of(box.shell("cat /proc/self/status").out)
    assert {status[name] for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")} == {
        "0" * 16
    }


def test_a_capability_that_the_host_lacks_is_named(box: Box) -> None:
    every = [f"CAP_{name}" for name in ("SYS_RESOURCE", "KILL")]
    bounding = int(status_of(Path("/proc/self/status").read_text())["CapBnd"], 16)
    box.program("true", capabilities={"bounding": every})
    if bounding >> 24 & 1:
        assert box.run().status == 0
        return
    with pytest.raises(SetupFailed, match="CAP_SYS_RESOURCE cannot be had on this host"):
        box.run()


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges_is_as_the_spec_says(box: Box, wanted: bool) -> None:
    box.program("cat", "/proc/self/status", noNewPrivileges=wanted)
    assert status_of(box.run().out)["NoNewPrivs"] == str(int(wanted))


def test_resource_limits_are_set_after_all_that_needs_more(box: Box) -> None:
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 7, "hard": 64},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_FSIZE", "soft": 4096, "hard": 8192},
    ]
    outcome = box.shell("ulimit -Sn; ulimit -Hn; ulimit -Hc; ulimit -Sf", rlimits=limits)
    assert outcome.out.splitlines() == ["7", "64", "0", "8"]


def test_a_limit_that_may_not_be_raised_is_named(box: Box) -> None:
    bounding = int(status_of(Path("/proc/self/status").read_text())["CapBnd"], 16)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = {"type": "RLIMIT_NOFILE", "soft": hard + 1, "hard": hard + 1}
    box.program("true", rlimits=[limit])
    if bounding >> 24 & 1:
        assert box.run().status == 0
        return
    with pytest.raises(SetupFailed, match="setting resource limits: RLIMIT_NOFILE to"):
        box.run()


def test_oom_score_adj_is_set(box: Box) -> None:
    assert box.shell("cat /proc/self/oom_score_adj", oomScoreAdj=500).out == "500\n"


def test_names_of_the_host_are_the_containers_own(box: Box) -> None:
    box.update(hostname="inside", domainname="example")
    script = "hostname; cat /proc/sys/kernel/domainname"
    assert box.shell(script).out.splitlines() == ["inside", "example"]
    assert os.uname().nodename != "inside"


def test_kernel_parameters_are_set_in_the_containers_namespaces(box: Box) -> None:
    parameters = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4711"}
    box.update(linux={"sysctl": parameters})
    before = Path("/proc/sys/kernel/msgmax").read_text()
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"
    assert box.shell(script).out.splitlines() == ["1", "4711"]
    assert Path("/proc/sys/kernel/msgmax").read_text() == before


@pytest.mark.needs_time_namespace
def test_the_clocks_of_a_time_namespace_are_moved(box: Box) -> None:
    box.update(linux={"timeOffsets": {"boottime": {"secs": 1_000_000, "nanosecs": 5}}})
    inside = float(box.shell("cat /proc/uptime").out.split()[0])
    outside = float(Path("/proc/uptime").read_text().split()[0])
    assert 999_000 < inside - outside < 1_001_000


def test_the_process_is_the_first_of_its_namespace_and_leads_a_session(box: Box) -> None:
    box.program("cat", "/proc/self/stat")
    fields = box.run().out.split()
    pid, ppid, pgrp, session, terminal = (int(fields[i]) for i in (0, 3, 4, 5, 6))
    assert (pid, ppid, pgrp, session, terminal) == (1, 0, 1, 1, 0)


def test_no_descriptor_of_ours_is_left_in_it(box: Box) -> None:
    outcome = box.shell("ls -l /proc/$$/fd; true")
    links = [line.partition(" -> ")[2] for line in outcome.out.splitlines() if " -> " in line]
    assert len(links) == 3
    assert links[0] == "/dev/null"


def test_descriptors_are_preserved_when_that_is_asked_for(box: Box) -> None:
    path = box.bundle.path / "extra"
    path.write_text("extra")
    box.program("sh", "-c", "cat <&4; echo; ls /proc/$$/fd; true")
    with path.open() as file:
        outcome = with_descriptors([file.fileno()] * 2, lambda: box.run(preserve_fds=2))
    assert outcome.out.split() == ["extra", "0", "1", "2", "3", "4"]


def test_no_signal_is_ignored_or_blocked_in_it(box: Box) -> None:
    status = status_of(box.shell("exec cat /proc/self/status").out)
    for name in ("SigIgn", "SigBlk", "SigCgt"):
        assert int(status[name], 16) == 0, name


def test_a_broken_pipe_ends_a_program(box: Box) -> None:
    assert box.shell("yes | head -1; echo done").out == "y\ndone\n"


def test_the_null_device_is_the_containers_own(box: Box) -> None:
    """CRIU could not restore a descriptor of the host's devtmpfs."""
    container = box.start(stdio=Stdio())
    inside = os.stat(f"/proc/{container.state.init_pid}/root/dev")
    for fd in (0, 1, 2):
        assert os.stat(f"/proc/{container.state.init_pid}/fd/{fd}").st_dev == inside.st_dev
    assert container.state.external_descriptors == ["/dev/null"] * 3


def test_the_null_device_may_be_read_and_written_whatever_number_it_has(box: Box) -> None:
    container = box.start(stdio=Stdio())
    for fd in (0, 1, 2):
        access = Path(f"/proc/{container.state.init_pid}/fdinfo/{fd}").read_text().split()[3]
        assert int(access, 8) & os.O_ACCMODE == os.O_RDWR


def test_a_pipe_and_a_file_are_what_the_state_says(box: Box) -> None:
    reader, writer = os.pipe()
    log = box.bundle.path / "log"
    box.program("sh", "-c", "echo out; echo err >&2; sleep inf")
    container = box.start(stdio=Stdio(None, writer, log))
    assert container.state.external_descriptors[1].startswith("pipe:[")
    assert container.state.external_descriptors[2] == str(log)
    os.close(writer)
    assert os.read(reader, 100) == b"out\n"
    eventually(log.read_text)
    container.delete(force=True)
    assert os.read(reader, 100) == b""
    assert log.read_text() == "err\n"
    os.close(reader)


def test_a_user_may_open_the_standard_descriptors_by_name(box: Box) -> None:
    outcome = box.shell("echo x > /dev/stdout", user={"uid": 1000, "gid": 1000})
    assert (outcome.status, outcome.out) == (0, "x\n"), outcome.err


def test_nobody_in_the_container_can_look_into_our_interpreter(box: Box) -> None:
    """It is not dumpable, so that even root with the container's capabilities cannot."""
    container = box.create()
    status = Path(f"/proc/{container.state.init_pid}/status").read_text()
    assert status_of(status)["Seccomp"] == "0"
    assert os.stat(f"/proc/{container.state.init_pid}/environ").st_uid == 0
    environment = Path(f"/proc/{container.state.init_pid}/environ").read_bytes()
    assert environment == b""


def test_the_interpreter_of_init_cannot_be_written_through_its_process(box: Box) -> None:
    """CVE-2019-5736: it lies in a mount of its own that is read-only."""
    container = box.create()
    mount = os.statvfs(f"/proc/{container.state.init_pid}/exe")
    assert mount.f_flag & os.ST_RDONLY


def test_the_containers_program_may_not_be_our_interpreter(box: Box) -> None:
    """CVE-2019-5736: /proc/self/exe as program would start it with libraries of the container."""
    box.program("/proc/self/exe", "-c", "print(1)")
    try:
        outcome = box.run()
    except SetupFailed:
        return
    assert outcome.out == ""
    assert outcome.status != 0


@pytest.mark.parametrize("fd", range(3, 12))
def test_no_directory_of_the_host_can_be_the_working_directory(box: Box, fd: int) -> None:
    """CVE-2024-21626: descriptors of ours that lead out of the rootfs."""
    for path in (f"/proc/self/fd/{fd}", f"/proc/1/fd/{fd}"):
        with pytest.raises(SetupFailed):
            box.shell("pwd; ls ../../../..", cwd=path)


def test_run_in_a_container_without_a_null_device(box: Box) -> None:
    box.update(mounts=[])
    box.program("true")
    assert Container.run(box.root, box.id, box.bundle.path) == 0


def test_what_the_caller_has_open_is_out_of_reach_before_the_start(box: Box) -> None:
    with (box.bundle.path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        container = box.create()
        directory = f"/proc/{container.state.init_pid}/fd"
        targets = [os.readlink(f"{directory}/{fd}") for fd in os.listdir(directory)]
    assert not [target for target in targets if target.startswith(str(box.bundle.path))]
