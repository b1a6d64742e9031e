"""What the files of both versions of cgroups say, read from files as kernels have them."""

from pathlib import Path

import pytest

from runtime.cgroups import counters, stats_v1, stats_v2
from runtime.cgroups.stats import NO_LIMIT, BlockIoEntry, CgroupStats, MemoryCounter, RdmaEntry

V1_FILES = {
    "cpu.stat": "nr_periods 34\nnr_throttled 12\nthrottled_time 561234567\nnr_bursts 2\n"
    "burst_time 9000\n",
    "cpuacct.stat": "user 25\nsystem 7\n",
    "cpuacct.usage": "331234567\n",
    "cpuacct.usage_percpu": "331000000 234567 \n",
    "cpuacct.usage_all": "cpu user system\n0 250000000 81000000\n1 200000 34567\n",
    "cpuset.cpus": "0-2,7\n",
    "cpuset.mems": "0\n",
    "cpuset.cpu_exclusive": "0\n",
    "cpuset.sched_load_balance": "1\n",
    "cpuset.sched_relax_domain_level": "-1\n",
    "memory.stat": "cache 4096\nrss 8192\nhierarchical_memory_limit 67108864\ntotal_cache 4096\n",
    "memory.usage_in_bytes": "438272\n",
    "memory.max_usage_in_bytes": "2502656\n",
    "memory.limit_in_bytes": "67108864\n",
    "memory.failcnt": "3\n",
    "memory.memsw.usage_in_bytes": "540672\n",
    "memory.memsw.max_usage_in_bytes": "2502656\n",
    "memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "memory.memsw.failcnt": "0\n",
    "memory.kmem.usage_in_bytes": "278528\n",
    "memory.kmem.tcp.limit_in_bytes": "9223372036854771712\n",
    "pids.current": "3\n",
    "pids.max": "max\n",
    "blkio.bfq.io_service_bytes_recursive": "Total 0\n",
    "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 4608\n"
    "8:0 Total 4608\nTotal 4608\n",
    "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Total 1\nTotal 1\n",
    "hugetlb.2MB.usage_in_bytes": "0\n",
    "hugetlb.2MB.max_usage_in_bytes": "0\n",
    "hugetlb.2MB.rsvd.usage_in_bytes": "4194304\n",
    "hugetlb.2MB.rsvd.max_usage_in_bytes": "8388608\n",
    "hugetlb.2MB.rsvd.failcnt": "1\n",
    "hugetlb.1GB.usage_in_bytes": "1073741824\n",
    "hugetlb.1GB.max_usage_in_bytes": "1073741824\n",
    "hugetlb.1GB.failcnt": "0\n",
    "rdma.max": "mlx4_0 hca_handle=2 hca_object=max\n",
    "rdma.current": "mlx4_0 hca_handle=1 hca_object=20\n",
}
V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "rdma")

V2_FILES = {
    "cpu.stat": "usage_usec 331234\nuser_usec 250000\nsystem_usec 81234\nnice_usec 0\n"
    "core_sched.force_idle_usec 0\nnr_periods 34\nnr_throttled 12\nthrottled_usec 561234\n"
    "nr_bursts 2\nburst_usec 9\n",
    "cpu.pressure": "some avg10=1.53 avg60=0.24 avg300=0.05 total=198321\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n",
    "memory.stat": "anon 8192\nfile 4096\nkernel 278528\nsock 0\n",
    "memory.current": "438272\n",
    "memory.peak": "2502656\n",
    "memory.max": "67108864\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n",
    "memory.swap.current": "4096\n",
    "memory.swap.max": "1048576\n",
    "memory.swap.events": "high 0\nmax 0\nfail 0\n",
    "pids.current": "3\n",
    "pids.max": "100\n",
    "io.stat": "8:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=0 dios=0\n253:0 \n",
    "hugetlb.2MB.current": "0\n",
    "hugetlb.2MB.rsvd.current": "4194304\n",
    "hugetlb.2MB.events": "max 1\n",
    "rdma.max": "mlx4_0 hca_handle=2 hca_object=max\n",
    "rdma.current": "mlx4_0 hca_handle=1 hca_object=20\n",
}

READ, WRITE = BlockIoEntry(8, 0, "Read", 4096), BlockIoEntry(8, 0, "Write", 512)


def fill(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).write_text(text)


@pytest.fixture
def v1(tmp_path: Path) -> CgroupStats:
    fill(tmp_path, V1_FILES)
    return stats_v1.read(dict.fromkeys(V1_CONTROLLERS, tmp_path))


@pytest.fixture
def v2(tmp_path: Path) -> CgroupStats:
    fill(tmp_path, V2_FILES)
    return stats_v2.read(tmp_path)


def test_cpu_time_of_v1(v1: CgroupStats) -> None:
    cpu = v1.cpu
    assert (cpu.total_ns, cpu.kernel_ns, cpu.user_ns) == (331234567, 70_000_000, 250_000_000)
    assert cpu.percpu_ns == (331000000, 234567)
    assert cpu.percpu_kernel_ns == (81000000, 34567)
    assert cpu.percpu_user_ns == (250000000, 200000)
    assert (cpu.periods, cpu.throttled_periods, cpu.throttled_ns) == (34, 12, 561234567)
    assert (cpu.burst_periods, cpu.burst_ns, cpu.pressure) == (2, 9000, None)


def test_cpu_time_of_v2(v2: CgroupStats) -> None:
    cpu = v2.cpu
    assert (cpu.total_ns, cpu.kernel_ns, cpu.user_ns) == (331234000, 81234000, 250000000)
    assert (cpu.periods, cpu.throttled_periods, cpu.throttled_ns) == (34, 12, 561234000)
    assert cpu.pressure is not None
    assert (cpu.pressure.some.avg10, cpu.pressure.some.total) == (1.53, 198321)
    assert cpu.pressure.full.total == 12


def test_the_cpuset_of_v1(v1: CgroupStats) -> None:
    assert (v1.cpuset.cpus, v1.cpuset.mems) == ((0, 1, 2, 7), (0,))
    assert (v1.cpuset.sched_load_balance, v1.cpuset.sched_relax_domain_level) == (1, -1)


def test_memory_of_v1(v1: CgroupStats) -> None:
    memory = v1.memory
    assert memory.usage == MemoryCounter(
        usage=438272, max_usage=2502656, limit=67108864, failures=3
    )
    assert (memory.swap.usage, memory.kernel.usage) == (540672, 278528)
    assert memory.kernel_tcp.limit == 9223372036854771712
    assert (memory.cache, memory.raw["rss"]) == (4096, 8192)


def test_memory_of_v2_counts_swap_as_v1_does(v2: CgroupStats) -> None:
    memory = v2.memory
    assert memory.usage == MemoryCounter(
        usage=438272, max_usage=2502656, limit=67108864, failures=3
    )
    assert (memory.swap.usage, memory.swap.limit) == (442368, 67108864 + 1048576)
    assert (memory.cache, memory.raw["kernel"]) == (4096, 278528)


def test_without_a_limit_of_swap_there_is_none_of_both(tmp_path: Path) -> None:
    fill(tmp_path, V2_FILES | {"memory.swap.max": "max\n"})
    assert stats_v2.read(tmp_path).memory.swap.limit == NO_LIMIT


def test_no_limit_of_pids_reads_as_0(v1: CgroupStats, v2: CgroupStats) -> None:
    assert (v1.pids.current, v1.pids.limit) == (3, 0)
    assert (v2.pids.current, v2.pids.limit) == (3, 100)


def test_block_io_of_v1_is_what_the_first_family_that_counts_says(v1: CgroupStats) -> None:
    assert v1.block_io.service_bytes[:2] == (READ, WRITE)
    assert [entry.op for entry in v1.block_io.service_bytes] == ["Read", "Write", "Sync", "Total"]
    assert v1.block_io.serviced[0] == BlockIoEntry(8, 0, "Read", 1)
    assert v1.block_io.queued == ()


def test_a_scheduler_that_counts_is_asked_before_the_throttling(tmp_path: Path) -> None:
    counted = {"blkio.bfq.io_service_bytes_recursive": "8:16 Read 7\nTotal 7\n"}
    fill(tmp_path, V1_FILES | counted)
    block_io = stats_v1.read({"blkio": tmp_path}).block_io
    assert block_io.service_bytes == (BlockIoEntry(8, 16, "Read", 7),)
    assert block_io.serviced == ()


def test_block_io_of_v2_has_the_names_of_v1(v2: CgroupStats) -> None:
    assert v2.block_io.service_bytes == (READ, WRITE)
    assert [(entry.op, entry.value) for entry in v2.block_io.serviced] == [
        ("Read", 1),
        ("Write", 2),
    ]


def test_huge_pages_are_reservations_where_those_are_counted(
    v1: CgroupStats, v2: CgroupStats
) -> None:
    assert sorted(v1.hugetlb) == ["1GB", "2MB"]
    assert (v1.hugetlb["2MB"].usage, v1.hugetlb["2MB"].failures) == (4194304, 1)
    assert v1.hugetlb["1GB"].max_usage == 1073741824
    assert (v2.hugetlb["2MB"].usage, v2.hugetlb["2MB"].failures) == (4194304, 1)


def test_rdma_devices(v1: CgroupStats, v2: CgroupStats) -> None:
    assert v1.rdma == v2.rdma
    assert v1.rdma.current == (RdmaEntry("mlx4_0", 1, 20),)
    assert v1.rdma.limit == (RdmaEntry("mlx4_0", 2, 2**32 - 1),)


def test_what_a_host_has_no_controller_for_counts_nothing(tmp_path: Path) -> None:
    assert stats_v1.read({}) == CgroupStats()
    assert stats_v2.read(tmp_path) == CgroupStats()


def test_a_kernel_without_pressure_has_none() -> None:
    assert counters.pressure("") is None
    old = counters.pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n")
    assert old is not None
    assert (old.some.total, old.full.total) == (5, 0)
