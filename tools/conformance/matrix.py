"""Cases: one change to config.json each, and what a script inside sees of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from runtimes import Runtime
from verbs import Observed

from tests.bundles import NAMESPACES, mount, spec


class Row(NamedTuple):
    """One line of the matrix: sections of config.json, and a script whose output is compared."""

    script: str
    sections: dict[str, Any]


_STATUS = "grep -E '{}' /proc/self/status"
_CGROUP = "d=/sys/fs/cgroup; cat $d/{0} 2>/dev/null || cat $d/{1}"


def _mounts(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of every container, and *more*."""
    return [*spec("true")["mounts"], *more]


def _process(**fields: Any) -> dict[str, Any]:
    return {"process": fields}


def _linux(**fields: Any) -> dict[str, Any]:
    return {"linux": fields}


def _limited(resources: dict[str, Any]) -> dict[str, Any]:
    seen = mount("/sys/fs/cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev")
    return {"linux": {"resources": resources}, "mounts": _mounts(seen)}


_CAPABILITIES = {
    "bounding": ["CAP_KILL", "CAP_CHOWN"],
    "permitted": ["CAP_KILL", "CAP_CHOWN"],
    "effective": ["CAP_KILL"],
    "inheritable": ["CAP_CHOWN"],
    "ambient": ["CAP_CHOWN"],
}
_DENIED = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}

ROWS: dict[str, Row] = {
    "environment": Row("env | sort", _process(env=["PATH=/bin", "A=1", "B=x y"])),
    "home": Row("echo $HOME", _process(user={"uid": 1000, "gid": 1000})),
    "user": Row(
        "id -u; id -g; id -G; umask",
        _process(user={"uid": 1000, "gid": 100, "additionalGids": [5, 6], "umask": 0o27}),
    ),
    "cwd": Row("pwd; stat -c %a:%u .", _process(cwd="/made/for/it")),
    "capabilities": Row(
        _STATUS.format("^Cap"),
        _process(capabilities=_CAPABILITIES, user={"uid": 1000, "gid": 1000}),
    ),
    "new privileges": Row(_STATUS.format("NoNewPrivs"), _process(noNewPrivileges=False)),
    "no new privileges": Row(_STATUS.format("NoNewPrivs"), _process(noNewPrivileges=True)),
    "rlimits": Row(
        "ulimit -n; ulimit -H -n; ulimit -c",
        _process(
            rlimits=[
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 512, "hard": 1024},
            ]
        ),
    ),
    "oom score": Row("cat /proc/self/oom_score_adj", _process(oomScoreAdj=500)),
    "I/O priority": Row(
        "ionice -p 1", _process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6})
    ),
    "scheduler": Row("chrt -p 1; nice", _process(scheduler={"policy": "SCHED_BATCH", "nice": 7})),
    "personality": Row("uname -m", _linux(personality={"domain": "LINUX32"})),
    "memory policy": Row(
        "head -n 1 /proc/self/numa_maps | cut -d ' ' -f 2",
        _linux(memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"}),
    ),
    "host name": Row("hostname", {"hostname": "conforming"}),
    "domain name": Row("cat /proc/sys/kernel/domainname", {"domainname": "example.org"}),
    "process ids": Row("echo $$; ls -d /proc/[0-9]* | wc -l", {}),
    "session": Row("cut -d ' ' -f 5,6 /proc/1/stat", {}),
    "descriptors": Row("ls /proc/1/fd", {}),
    "cpus": Row(_STATUS.format("Cpus_allowed_list"), {}),
    "network": Row("ls /sys/class/net; ip -o link | grep -c UP", {}),
    "sysctl": Row(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
        _linux(sysctl={"net.ipv4.ip_forward": "1", "kernel.msgmax": "65536"}),
    ),
    "clock": Row(
        "[ $(cut -d . -f 1 /proc/uptime) -gt 900000 ] && echo ahead",
        _linux(
            namespaces=[{"type": kind} for kind in NAMESPACES],
            timeOffsets={"boottime": {"secs": 1_000_000}},
        ),
    ),
    "devices": Row(
        "ls -l /dev | awk '{print $1, $3, $4, $5, $6, $NF}' | sort; stat -c '%a %t,%T' /dev/it",
        _linux(
            devices=[{"path": "/dev/it", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640}]
        ),
    ),
    "masked": Row("cat /proc/kcore | wc -c; ls /proc/acpi 2>&1 | wc -l", {}),
    "read-only paths": Row("echo 1 > /proc/sys/kernel/msgmax; echo $?", {}),
    "read-only root": Row("touch /x; echo $?", {"root": {"path": "rootfs", "readonly": True}}),
    "propagation": Row(
        "grep -c ' / / .*shared:' /proc/self/mountinfo", _linux(rootfsPropagation="shared")
    ),
    "mounts": Row("cut -d ' ' -f 5 /proc/self/mountinfo | sort", {}),
    "tmpfs": Row(
        "grep ' /t ' /proc/mounts | cut -d ' ' -f 2-4; stat -c %a /t",
        {"mounts": _mounts(mount("/t", "tmpfs", "nosuid", "noexec", "size=1m", "mode=700"))},
    ),
    "bind": Row(
        "cat /b; echo x > /b; echo $?",
        {
            "mounts": _mounts(
                {"destination": "/b", "source": "/etc/hostname", "options": ["bind", "ro"]}
            )
        },
    ),
    "cgroup mount": Row("ls /sys/fs/cgroup | sort; touch /sys/fs/cgroup/x; echo $?", _limited({})),
    "memory limit": Row(
        _CGROUP.format("memory/memory.limit_in_bytes", "memory.max"),
        _limited({"memory": {"limit": 67108864}}),
    ),
    "pids limit": Row(
        _CGROUP.format("pids/pids.max", "pids.max"), _limited({"pids": {"limit": 99}})
    ),
    "CPU shares": Row(
        _CGROUP.format("cpu/cpu.shares", "cpu.weight"), _limited({"cpu": {"shares": 512}})
    ),
    "CPU quota": Row(
        _CGROUP.format("cpu/cpu.cfs_quota_us", "cpu.max"),
        _limited({"cpu": {"quota": 20000, "period": 50000}}),
    ),
    "CPU set": Row(
        _CGROUP.format("cpuset/cpuset.cpus", "cpuset.cpus"), _limited({"cpu": {"cpus": "0"}})
    ),
    "seccomp": Row(
        "mkdir /tmp/x; grep Seccomp: /proc/self/status",
        _linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [_DENIED]}),
    ),
    "user namespace": Row(
        "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups | tr -s ' '; id -u",
        _linux(
            namespaces=[{"type": name} for name in ("pid", "mount", "uts", "ipc", "user")],
            uidMappings=[{"containerID": 0, "hostID": 0, "size": 65536}],
            gidMappings=[{"containerID": 0, "hostID": 0, "size": 65536}],
        ),
    ),
}


def seen(row: Row, runtime: Runtime) -> Observed:
    """What the script says in a container with the row's sections."""
    runtime.configure(**row.sections)
    runtime.configure(process={"args": ["sh", "-c", row.script]})
    answer = runtime("run", runtime.id)
    return {"exit code": answer.code, "sees": answer.out}
