"""The write tracker on real processes: after any rounds of changes every page is as reported."""

import os
import time
from pathlib import Path

import pytest

from runtime.memory import ptrace
from runtime.memory.errors import TrackingFailed
from runtime.memory.registers import machine
from runtime.memory.runs import Run
from runtime.memory.tracker import Tracker, chosen
from tests.root._memory_mirror import NOBODY, Mirror, Target, pages_within, target

pytestmark = pytest.mark.needs_root

KINDS = [
    "userfaultfd",
    "hashes",
    pytest.param("soft-dirty", marks=pytest.mark.needs_soft_dirty),
]
AREA = 0x10_0000_0000  # far from whatever the loader and the allocator use
PAGES = 64

# What a process does between two rounds; before the first one it has filled AREA.
CASES = {
    "writes": ["put(A, 3, 7)", "put(A, 3, 8); put(A, 60, 1)", "pass", "fill(A, 64, 2)"],
    "a mapping replaced at its address": [
        "unmap(A, 64); memory(64, at=A); fill(A, 64, 2)",
        "unmap(A, 32); memory(32, at=A); put(A, 5, 5)",
        "memory(64, at=A)",
        "put(A, 9, 9)",
    ],
    "a hole in a mapping, filled again": [
        "unmap(A + 8 * PAGE, 8)",
        "memory(8, at=A + 8 * PAGE); fill(A + 8 * PAGE, 4, 3)",
    ],
    "mremap away, and back": [
        "put(A, 1, 1); remap(A, 64, 64, to=A + 1024 * PAGE)",
        "put(A + 1024 * PAGE, 2, 2)",
        "remap(A + 1024 * PAGE, 64, 64, to=A); put(A, 4, 4)",
        "remap(A + 16 * PAGE, 16, 16, to=A + 512 * PAGE); fill(A + 512 * PAGE, 3, 5)",
    ],
    "mremap away from beside what is tracked, and back": [
        "B = memory(64, at=A + 64 * PAGE)",
        "fill(B, 64, 1)",
        "remap(B, 64, 64, to=A + 1024 * PAGE)",
        # merged with A, which the kernel then tracks no more
        "remap(A + 1024 * PAGE, 64, 64, to=B); put(A, 3, 3)",
        "put(A, 3, 4)",
        "put(A, 3, 5); put(B, 3, 5)",
    ],
    "mremap growing and shrinking": [
        "remap(A, 64, 128); fill(A + 64 * PAGE, 64, 6)",
        "remap(A, 128, 32)",
        "remap(A, 32, 64); put(A, 50, 5)",
    ],
    "mremap onto what was tracked": [
        "B = memory(64, at=A + 2048 * PAGE); fill(B, 64, 9)",
        "remap(B, 64, 64, to=A)",
        "put(A, 3, 3)",
    ],
    "madvise(DONTNEED)": [
        "advise(A, 32, DONTNEED)",
        "put(A, 5, 5)",
        "advise(A, 64, DONTNEED); fill(A, 8, 5)",
    ],
    "madvise(FREE)": ["advise(A, 64, FREE)", "put(A, 5, 5)", "advise(A, 8, FREE); put(A, 2, 9)"],
    "mprotect": [
        "protect(A, 64, READ)",
        "protect(A, 32, READ | WRITE); put(A, 5, 5)",
        "protect(A, 64, NONE)",
        "protect(A, 64, READ | WRITE); put(A, 60, 6)",
    ],
    "brk": [
        "B = libc.sbrk(256 * PAGE); fill(B, 200, 1)",
        "put(B, 10, 1); C = libc.sbrk(64 * PAGE); fill(C, 64, 2)",
        "libc.sbrk(-64 * PAGE); fill(libc.sbrk(64 * PAGE), 60, 3)",
    ],
    "a growing stack": ["deep(500)", "deep(2000)", "deep(100)"],
    "huge pages": [
        "H = memory(1024, at=A * 2); advise(H, 1024, HUGEPAGE); fill(H, 1024, 1)",
        "put(H, 7, 7)",
        "advise(H + 3 * PAGE, 2, DONTNEED); put(H, 600, 6)",
        "fill(H, 1024, 2)",
    ],
    "hugetlb": [
        "memory(512, at=A * 2, flags=PRIVATE | ANONYMOUS | HUGETLB | NORESERVE)",
        "put(A, 1, 1)",
    ],
    "swapped pages": ["advise(A, 64, PAGEOUT)", "put(A, 5, 5)", "advise(A, 64, PAGEOUT)"],
    "pages merged by KSM": [
        "advise(A, 64, MERGEABLE); ctypes.memset(A, 7, 64 * PAGE)",
        "put(A, 3, 3)",
        "import time; time.sleep(0.1)",
        "put(A, 4, 4)",
    ],
    "fork, and both write": [
        "child = fork(fill, A, 32, 5); put(A, 1, 1)",
        "put(A, 2, 2); fork(put, A, 40, 4)",
        "fill(A, 64, 8)",
    ],
    "fork of a child that has ended": [
        "child = os.fork() or os._exit(0)",
        "os.waitpid(child, 0); put(A, 2, 2)",
    ],
    "threads that come and go": [
        "start(fill, A, 4, 4)",
        "[start(put, A, n, n) for n in range(50)]",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", CASES.values(), ids=CASES.keys())
def test_every_page_is_as_reported_after(kind: str, steps: list[str]) -> None:
    with target() as process:
        process.do(f"A = memory({PAGES}, at={AREA}); fill(A, {PAGES}, 1)")
        with Tracker.attach(process.family, kind=chosen(kind)) as tracker:
            mirror = Mirror(tracker)
            mirror.scan()
            for step in steps:
                process.do(step)
                mirror.scan()
            process.do("put(A, 0, 77) if os.access('/proc/self', os.R_OK) else None")
            process.stop()
            mirror.final()
            assert mirror.differing() == []


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_was_written_is_reported(kind: str) -> None:
    with target() as process:
        process.do(f"A = memory({PAGES}, at={AREA}); fill(A, {PAGES}, 1)")
        with Tracker.attach(process.family, kind=kind) as tracker:
            mirror = Mirror(tracker)
            assert pages_within(mirror.scan(), AREA, PAGES) == PAGES
            assert pages_within(mirror.scan(), AREA, PAGES) == 0
            process.do("put(A, 3, 7); put(A, 9, 7)")
            assert pages_within(mirror.scan(), AREA, PAGES) == 2
            assert pages_within(mirror.scan(), AREA, PAGES) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_shared_file_and_locked_mappings_are_not_reported(kind: str) -> None:
    with target() as process:
        process.do("fd = os.memfd_create('x'); os.truncate(fd, 16 * PAGE)")
        process.do(f"memory(16, at={AREA}, flags=SHARED, fd=fd); fill({AREA}, 16, 1)")
        process.do(f"memory(16, at={AREA + (1 << 24)}, flags=PRIVATE, fd=fd)")
        process.do(f"fill({AREA + (1 << 24)}, 16, 1)")
        process.do(f"fill(memory(16, at={AREA + (2 << 24)}, flags=SHARED | ANONYMOUS), 16, 1)")
        process.do(f"L = memory(16, at={AREA + (3 << 24)}); fill(L, 16, 1)")
        process.do("checked(libc.mlock(L, 16 * PAGE))")
        with Tracker.attach(process.family, kind=kind) as tracker:
            assert pages_within(tracker.scan(), AREA, 1 << 16) == 0


def test_a_parasite_that_comes_during_the_last_scan_makes_nothing_dirty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CRIU maps its own code in the processes while we look for the last time."""
    with target() as process:
        process.do(f"A = memory({PAGES}, at={AREA}); fill(A, {PAGES}, 1)")
        process.do(f"B = memory({PAGES}, at=A + 1024 * PAGE); fill(B, {PAGES}, 1)")
        process.do("fd = os.memfd_create('x'); os.truncate(fd, PAGE)")
        with Tracker.attach(process.family, kind="userfaultfd") as tracker:
            assert pages_within(tracker.scan(), AREA, 2048) == 2 * PAGES
            process.do("put(B, 3, 7)")
            (space,) = tracker.spaces.values()
            written = space.pagemap.written

            def after_the_parasite(start: int, end: int, *, protect: bool) -> list[Run]:
                process.do("memory(1, at=A + 512 * PAGE, flags=SHARED, fd=fd)")
                monkeypatch.undo()
                return written(start, end, protect=protect)

            monkeypatch.setattr(space.pagemap, "written", after_the_parasite)
            assert pages_within(tracker.final(), AREA, 2048) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_exec_begins_a_new_space(kind: str) -> None:
    with target() as process, Tracker.attach(process.family, kind=kind) as tracker:
        mirror = Mirror(tracker)
        (before,) = mirror.scan().fresh
        process.execute_itself()
        process.do("fill(memory(8), 8, 3)")
        scan = mirror.scan()
        assert scan.gone == [before]
        assert len(scan.fresh) == 1
        process.do("fill(memory(8), 8, 3)")
        process.stop()
        mirror.final()
        assert mirror.differing() == []


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_are_new_under_the_freeze_are_reported_whole(kind: str) -> None:
    with target() as process, Tracker.attach(process.family, kind=kind) as tracker:
        mirror = Mirror(tracker)
        mirror.scan()
        process.do("fork(fill, memory(32), 32, 5)")
        process.stop()
        assert len(mirror.final().fresh) == 1
        assert mirror.differing() == []


@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_threads_write_while_rounds_go_on(kind: str) -> None:
    with target() as process, Tracker.attach(process.family, kind=kind) as tracker:
        process.do("areas = [memory(32) for _ in range(200)]")
        process.do("[start(write_for_ever, a, 32, n) for n, a in enumerate(areas)]")
        mirror = Mirror(tracker)
        for _ in range(5):
            mirror.scan()
        process.stop()
        mirror.final()
        assert mirror.differing() == []


@pytest.mark.parametrize("kind", KINDS)
def test_mappings_change_at_random_while_rounds_go_on(kind: str) -> None:
    with target() as process, Tracker.attach(process.family, kind=kind) as tracker:
        process.do("[fork(storm, n) for n in range(2)]; start(storm, 5); start(storm, 6)")
        mirror = Mirror(tracker)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            mirror.scan()
        process.stop()
        mirror.final()
        assert mirror.differing() == []


@pytest.mark.needs_userfaultfd
def test_the_kernel_writes_into_tracked_pages_of_an_unprivileged_process() -> None:
    with target(user=NOBODY, group=NOBODY, extra_groups=[]) as process:
        process.do(f"A = memory({PAGES}, at={AREA}); fill(A, {PAGES}, 1)")
        with Tracker.attach(process.family, kind="userfaultfd") as tracker:
            mirror = Mirror(tracker)
            mirror.scan()
            process.do("zeros = os.open('/dev/urandom', os.O_RDONLY)")
            process.do("assert libc.read(zeros, A + 100, 5 * PAGE) == 5 * PAGE")
            assert pages_within(mirror.scan(), AREA, PAGES) == 6
            process.stop()
            mirror.final()
            assert mirror.differing() == []


@pytest.mark.needs_userfaultfd
@pytest.mark.parametrize("verdict", ["0x00050001", "0x80000000"], ids=["EPERM", "kill"])
def test_a_seccomp_filter_that_forbids_userfaultfd_is_no_obstacle(verdict: str) -> None:
    here = machine()
    assert here
    with target(user=NOBODY, group=NOBODY, extra_groups=[]) as process:
        # linux/filter.h: load the number; is it userfaultfd: verdict, else allow
        process.do("import struct")
        process.do(
            "code = b''.join(struct.pack('HBBI', *i) for i in [(0x20, 0, 0, 0), "
            f"(0x15, 0, 1, {here.userfaultfd}), (6, 0, 0, {verdict}), (6, 0, 0, 0x7FFF0000)])"
        )
        process.do("buffer = ctypes.create_string_buffer(code)")
        process.do("prog = struct.pack('HxxxxxxQ', 4, ctypes.addressof(buffer))")
        process.do("checked(libc.prctl(38, 1, 0, 0, 0)); checked(libc.prctl(22, 2, prog, 0, 0))")
        with Tracker.attach(process.family, kind="userfaultfd") as tracker:
            (space,) = tracker.spaces.values()
            assert space.untracked is None
            tracker.scan()
        process.do("pass")


WATCH = (
    "import struct; fd = checked(libc.syscall({userfaultfd}, 0)); "
    "checked(libc.ioctl(fd, 0xC018AA3F, struct.pack('QQQ', 0xAA, 1 << 15, 0)))"
)
REGISTER = "checked(libc.ioctl(fd, 0xC020AA00, struct.pack('QQQQ', {0}, 16 * PAGE, 2, 0)))"


@pytest.mark.needs_userfaultfd
def test_a_process_that_watches_its_own_memory_is_left_alone() -> None:
    here = machine()
    assert here
    with target() as process:
        process.do(f"A = memory({PAGES}, at={AREA}); fill(A, {PAGES}, 1)")
        process.do(WATCH.format(userfaultfd=here.userfaultfd))
        with Tracker.attach(process.family, kind="userfaultfd") as tracker:
            mirror = Mirror(tracker)
            mirror.scan()
            process.do(REGISTER.format("A"))  # as it could before
            assert pages_within(mirror.scan(), AREA, PAGES) == PAGES
            process.stop()
            mirror.final()
            assert mirror.differing(tracked=False) == []


@pytest.mark.needs_userfaultfd
def test_a_range_that_the_process_has_come_to_watch_is_always_dirty() -> None:
    here = machine()
    assert here
    with target() as process:
        process.do(f"A = memory({PAGES}, at={AREA}); fill(A, {PAGES}, 1)")
        with Tracker.attach(process.family, kind="userfaultfd") as tracker:
            mirror = Mirror(tracker)
            mirror.scan()
            process.do(WATCH.format(userfaultfd=here.userfaultfd))
            process.do("put(A, 1, 1)")
            # Taken over between two rounds, and looking just like ours.
            process.do("unmap(A + 32 * PAGE, 16); memory(16, at=A + 32 * PAGE)")
            process.do("fill(A + 32 * PAGE, 16, 3)")
            process.do(REGISTER.format("A + 32 * PAGE"))
            assert pages_within(mirror.scan(), AREA, PAGES) == 17
            assert pages_within(mirror.scan(), AREA, PAGES) == 16
            process.stop()
            mirror.final()
            assert mirror.differing() == []


def test_a_process_in_a_debugger_is_refused_by_name() -> None:
    with target() as process:
        debugger = ptrace.Thread.seize(process.pid)
        with pytest.raises(
            TrackingFailed, match=f"{process.pid} .* traced by process {os.getpid()}"
        ):
            Tracker.attach(process.family)
        debugger.stop(1)
        debugger.detach()
        Tracker.attach(process.family).close()


@pytest.mark.needs_userfaultfd
def test_a_vforked_parent_holds_nobody_up() -> None:
    with target() as process:
        process.do("import subprocess")
        process.do("start(subprocess.run, ['sleep', '0.3'])")
        began = time.monotonic()
        with Tracker.attach(process.family, kind="userfaultfd") as tracker:
            for _ in range(3):
                tracker.scan()
        assert time.monotonic() - began < 5


def test_nothing_is_left_in_the_target() -> None:
    with target() as process:
        before = sorted(os.listdir(f"/proc/{process.pid}/fd"))
        with Tracker.attach(process.family) as tracker:
            tracker.scan()
            assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == before
        assert traces_of_tracking(process) == []


def traces_of_tracking(process: Target) -> list[str]:
    """Protected mappings, descriptors, a tracer, blocked signals."""
    smaps = Path(f"/proc/{process.pid}/smaps").read_text()
    status = Path(f"/proc/{process.pid}/status").read_text()
    links = [os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
    return [
        *(line for line in smaps.splitlines() if line.startswith("VmFlags") and " uw" in line),
        *(link for link in links if "userfaultfd" in link),
        *(
            line
            for line in status.splitlines()
            if line.startswith(("TracerPid:", "SigBlk:")) and line.split()[1].strip("0")
        ),
    ]


def test_the_ways_are_named_and_checked() -> None:
    assert chosen(None) in ("userfaultfd", "soft-dirty", "hashes")
    with pytest.raises(ValueError, match="magic"):
        chosen("magic")
