"""What criu_rpc writes into a request and reads from CRIU's log and statistics."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import criu_rpc
from criu_rpc import (
    DumpOptions,
    JoinNamespace,
    ManageCgroups,
    NetworkLock,
    PageServer,
    PreDumpMode,
    RestoreOptions,
    VethPair,
    log,
    proto,
    stats,
)
from criu_rpc.options import fill

SAMPLES: dict[str, Any] = {
    "ext_mnt": (("/data", "/data"),),
    "irmap_scan_paths": (Path("/srv"),),
    "page_server": PageServer("10.0.0.1", 27000),
    "network_lock": NetworkLock.NFTABLES,
    "manage_cgroups_mode": ManageCgroups.FULL,
    "pre_dump_mode": PreDumpMode.VM_READ,
    "veths": (VethPair("eth0", "mv0@br7"),),
    "join_ns": (JoinNamespace("ipc", Path("/proc/1/ns/ipc")),),
    "cg_roots": (("memory", "/a"), (None, "/b")),
}


def sample(field: dataclasses.Field[Any]) -> Any:
    if field.name in SAMPLES:
        return SAMPLES[field.name]
    kind = str(field.type)
    if "tuple" in kind:
        return ("one", "two")
    if "bool" in kind:
        return True
    return 7 if "int" in kind else Path("/x") if "Path" in kind else "x"


@pytest.mark.parametrize("kind", [DumpOptions, RestoreOptions])
def test_every_option_reaches_the_request(kind: type[DumpOptions | RestoreOptions]) -> None:
    for field in dataclasses.fields(kind):
        if field.name in ("images_dir", "work_dir"):
            continue  # sent as descriptors
        required = {"images_dir": Path("/i")} | ({"pid": 1} if kind is DumpOptions else {})
        before, after = proto.rpc().criu_opts(), proto.rpc().criu_opts()
        fill(before, kind(**required))
        fill(after, kind(**(required | {field.name: sample(field)})))
        default = field.default if field.default is not dataclasses.MISSING else None
        assert before != after or default == sample(field), field.name


def test_mounts_veths_and_page_server_in_crius_words() -> None:
    opts = proto.rpc().criu_opts()
    fill(
        opts,
        RestoreOptions(
            images_dir=Path("/i"),
            ext_mnt=(("/data", "/srv/data"),),
            veths=(VethPair("eth0", "mv0@br7"),),
            page_server=PageServer("10.0.0.1", 27000),
            ghost_limit_bytes=1 << 20,
        ),
    )
    assert sorted(opts.external) == ["mnt[/data]:/srv/data", "veth[eth0]:mv0@br7"]
    assert (opts.ps.address, opts.ps.port, opts.ghost_limit) == ("10.0.0.1", 27000, 1 << 20)


def test_unset_options_leave_crius_defaults_alone() -> None:
    opts = proto.rpc().criu_opts()
    fill(opts, DumpOptions(images_dir=Path("/i"), pid=1))
    unset = ("ghost_limit", "timeout", "network_lock", "cpu_cap", "manage_cgroups_mode", "ps")
    assert [name for name in unset if opts.HasField(name)] == []


@pytest.mark.parametrize(
    ("kernel", "version"),
    [("6.1.0-18-amd64", (4, 1)), ("6.15.9", (4, 1)), ("6.16.0-rc1", (4, 2)), ("7.0", (4, 2))],
)
def test_the_oldest_criu_depends_on_the_kernel(kernel: str, version: tuple[int, int]) -> None:
    assert criu_rpc.minimum_version(kernel)[:2] == version


LOG = """\
(00.000010) Version: 4.1.1 (gitid 0)
(00.000020) Warn  (criu/kerndat.c:1): something
(00.012000)    431: Error (criu/files-reg.c:2104): File usr/bin/x has bad size 5 (expect 7)
(00.012100) Error (criu/cr-restore.c:2200): Restoring FAILED.
"""


def test_the_first_telling_error_of_a_log_is_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "restore.log"
    path.write_text(LOG)
    found = log.cause(path)
    assert found == "File usr/bin/x has bad size 5 (expect 7)"
    assert log.remedy(found) == "the root filesystem is not as it was when dumped"


def test_a_hollow_error_is_better_than_none(tmp_path: Path) -> None:
    path = tmp_path / "restore.log"
    path.write_text("(00.012100) Error (criu/cr-restore.c:2200): Restoring FAILED.\n")
    assert log.cause(path) == "Restoring FAILED."


def test_no_log_and_no_error_give_no_cause(tmp_path: Path) -> None:
    assert log.cause(tmp_path / "none.log") is None
    (tmp_path / "empty.log").write_bytes(b"\xff\x00")
    assert log.cause(tmp_path / "empty.log") is None
    assert log.remedy(None) is None
    assert log.remedy("never seen before") is None


def stats_file(path: Path, kind: str, **values: int) -> None:
    message = proto.stats().stats_entry()
    for name, value in values.items():
        setattr(getattr(message, kind), name, value)
    data = message.SerializePartialToString()
    path.write_bytes(bytes.fromhex("4059105506330957") + len(data).to_bytes(4, "little") + data)


DUMP = {
    "freezing_time": 1,
    "frozen_time": 2,
    "memdump_time": 3,
    "memwrite_time": 4,
    "pages_scanned": 5,
    "pages_skipped_parent": 6,
    "pages_written": 7,
    "pages_lazy": 8,
}


def test_statistics_have_units(tmp_path: Path) -> None:
    stats_file(tmp_path / "stats-dump", "dump", **DUMP)
    found = stats.dump_stats(tmp_path)
    assert (found.freezing_time_us, found.frozen_time_us, found.pages_lazy) == (1, 2, 8)


def test_statistics_are_written_as_criu_writes_them(tmp_path: Path) -> None:
    written = stats.DumpStats(pages_scanned=5, pages_skipped_parent=3, pages_written=2)
    stats.write_dump_stats(tmp_path, written)
    assert stats.dump_stats(tmp_path) == written
    assert (tmp_path / "stats-dump").read_bytes()[:8] == bytes.fromhex("4059105506330957")


@pytest.mark.parametrize("content", [None, b"", b"garbage garbage garbage", b"\x40\x59\x10\x55"])
def test_missing_or_damaged_statistics_are_zero(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "stats-restore").write_bytes(content)
    assert stats.restore_stats(tmp_path) == stats.RestoreStats()


def test_public_names_are_loaded_on_first_use() -> None:
    for name in criu_rpc.__all__:
        assert getattr(criu_rpc, name).__module__.startswith("criu_rpc.") or name == "Handler"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        criu_rpc.nonsense  # noqa: B018
