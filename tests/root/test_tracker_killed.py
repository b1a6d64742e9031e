"""The tracker is killed at any moment, and the target never notices."""

import os
import random
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.memory.injection import take_userfaultfd, tracer_of
from runtime.memory.ptrace import Thread
from runtime.memory.tracker import Tracker
from runtime.threads import in_a_thread
from tests.root._memory_mirror import state, target
from tests.root.test_tracker import traces_of_tracking

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userfaultfd]

KILLS = 60

# Each does something over and over whose outcome it knows, and counts in `loops`.
WORKS = {
    "computing": """
def once():
    assert sum(x * x for x in range(300)) == 8955050
    assert sorted(range(100, 0, -1)) == list(range(1, 101))
""",
    "sleeping": """
def once():
    began = time.monotonic()
    time.sleep(0.003)
    assert 0.003 <= time.monotonic() - began < 2
""",
    "reading a pipe": """
import select
ours, theirs = os.pipe(), os.pipe()
def answer():
    while True:
        os.write(theirs[1], os.read(ours[0], 8))
start(answer)
def once():
    word = random.randbytes(8)
    os.write(ours[1], word)
    assert select.select([theirs[0]], [], [], 5)[0]
    assert os.read(theirs[0], 8) == word
""",
    "taking signals": """
import signal
taken = 0
def take(*_):
    global taken
    taken += 1
signal.signal(signal.SIGALRM, take)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
def once():
    before = taken
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    while taken == before:
        signal.sigtimedwait([signal.SIGUSR1], 0.0005)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR1}
""",
    "waiting for a lock": """
def release(lock):
    time.sleep(0.002)
    lock.release()
def once():
    lock = threading.Lock()
    lock.acquire()
    start(release, lock)
    assert lock.acquire(timeout=5)
""",
}

WORKING = """
loops = 0
def work():
    global loops
    while True:
        once()
        loops += 1
        assert not any('userfaultfd' in os.readlink(f'/proc/self/fd/{fd}') for fd in fds())
def fds():
    return [fd for fd in os.listdir('/proc/self/fd') if os.path.islink(f'/proc/self/fd/{fd}')]
"""


def killed_after(seconds: float, work: Callable[[], object]) -> None:
    """Have a process of ours do it, and kill that so long after it has begun."""
    begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(begun[1], b".")
            work()
        except BaseException:  # noqa: BLE001 - shown, and seen by the status
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(1)
    os.read(begun[0], 1)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    for fd in begun:
        os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def take_for_ever(pid: int) -> None:
    mem_fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    while True:
        os.close(in_a_thread(lambda: take_userfaultfd(pid, mem_fd), name="tracer")[0])


def unused_end_of_vdso(pid: int) -> bytes:
    maps = Path(f"/proc/{pid}/maps").read_text()
    found = re.search(r"^\w+-(\w+) .*\[vdso\]$", maps, re.M)
    assert found
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        return os.pread(mem.fileno(), 1400, int(found[1], 16) - 1400)


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS.keys())
def test_a_target_goes_on_when_its_tracer_is_killed(work: str) -> None:
    chance = random.Random(work)
    with target() as process:
        process.do(f"exec({work!r})")
        process.do(f"exec({WORKING!r})")
        process.begin("work()")
        interrupted = 0
        for number in range(20 * KILLS):
            if interrupted and number >= KILLS:
                break
            killed_after(0.002 + chance.random() * 0.004, lambda: take_for_ever(process.pid))
            assert process.process.poll() is None
            interrupted += any(unused_end_of_vdso(process.pid))
            assert state(process.pid, process.pid) in "RSD"
        # Killed in the middle of a detour, and not just around it.
        assert interrupted
        process.interrupt()
        process.do("assert loops > 5, loops")
        assert traces_of_tracking(process) in ([], ["SigBlk:\t0000000000000200"])


def test_a_killed_tracker_leaves_no_protection() -> None:
    with target() as process:
        process.do("A = memory(64); fill(A, 64, 1)")

        def track() -> None:
            with Tracker.attach(process.family, kind="userfaultfd") as tracker:
                while True:
                    tracker.scan()

        for n in range(20):
            killed_after(0.005 * n, track)
            process.do("put(A, 3, 3)")  # which it does when it is back from its detour
            assert traces_of_tracking(process) == []


def test_a_target_that_is_stopped_stays_so_and_goes_on_when_it_may() -> None:
    with target() as process:
        process.stop()
        with Tracker.attach(process.family, kind="userfaultfd") as tracker:
            tracker.scan()
            assert not any(space.untracked for space in tracker.spaces.values())
        time.sleep(0.01)
        assert state(process.pid, process.pid) == "T"
        os.kill(process.pid, signal.SIGCONT)
        process.do("pass")


# Each blocks its process in one call for 0.3 s, and says when it ends by anything else.
CALLS = {
    "relative sleep": "time.sleep(0.3)",
    "poll": "import select; select.poll().poll(300)",
    # When the time is up just as a call of it was interrupted, Python 3.11 to 3.13 return a siginfo
    # of nothing in place of None (signalmodule.c: signal_sigtimedwait_impl).
    "sigtimedwait": "import signal; found = signal.sigtimedwait([signal.SIGUSR2], 0.3); "
    "assert not (found and found.si_signo == signal.SIGUSR2)",
    "a futex with a time-out": "threading.Event().wait(0.3)",
}


def test_a_tracer_thread_has_let_go_when_its_work_is_done() -> None:
    def seize() -> int:
        Thread.seize(process.pid)
        return threading.get_native_id()

    with target() as process:
        for _ in range(50):
            tracer = in_a_thread(seize, name="tracer")
            assert not Path(f"/proc/self/task/{tracer}").exists()
            assert tracer_of(process.pid) == 0


@pytest.mark.parametrize("line", CALLS.values(), ids=CALLS.keys())
def test_an_interrupted_call_ends_as_if_nothing_had_been(line: str) -> None:
    with target() as process:
        mem_fd = os.open(f"/proc/{process.pid}/mem", os.O_RDONLY)
        process.begin(f"began = time.monotonic(); {line}")
        for _ in range(20):
            time.sleep(0.005)
            os.close(in_a_thread(lambda: take_userfaultfd(process.pid, mem_fd), name="tracer")[0])
        os.close(mem_fd)
        process.answered()
        process.do("assert 0.29 < time.monotonic() - began < 10")


def test_the_target_stands_for_less_than_a_millisecond() -> None:
    stops = []
    with target() as process:
        for _ in range(40):
            with Tracker.attach(process.family, kind="userfaultfd") as tracker:
                stops.append(tracker.scan().stop_us)
    # The best of them: others have the processors as well.
    assert min(stops) < 1000
