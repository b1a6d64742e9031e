"""The page store on real files: seen by others, killed in the middle of it, with no room left."""

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from runtime.memory.contents import PAGE_SIZE
from runtime.memory.served_pages import ServedPages
from runtime.memory.store import MISSING, SERVED, PageStore
from tests.stores import ensure_whole

MIB = 1 << 20
PAGES = 1500  # of three leaves, which most operations cross
SPACES = (1, 2)
KINDS = 2000  # of contents: most are in several places, and some in one

#: (space, page) -> the kind of its content, or MISSING or SERVED below zero
Pages = dict[tuple[int, int], int]
NOT_THERE = {MISSING: -1, SERVED: -2}


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(mkdtemp(prefix="mig-test-store-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


def content(kinds: Iterable[int]) -> bytes:
    """Pages of these kinds; 0 is zeros."""
    return b"".join(kind.to_bytes(8, "little") * (PAGE_SIZE // 8) for kind in kinds)


def child(work: Callable[[int], None]) -> tuple[int, int]:
    """A process that does *work*, given the end of a pipe; returns its pid and the other end."""
    there, here = os.pipe()
    if pid := os.fork():
        os.close(here)
        return pid, there
    try:
        work(here)
        os._exit(0)
    finally:
        os._exit(1)


def killed_soon(pid: int, pipe: int, dice: random.Random) -> int:
    """Kill it at some moment; returns how many bytes it has written by then."""
    done = len(os.read(pipe, 1))
    time.sleep(dice.random() * 0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while data := os.read(pipe, 65536):
        done += len(data)
    os.close(pipe)
    return done


def everything(store: ServedPages) -> Pages:
    """What there is; no page may be of two kinds."""
    found: Pages = {}
    for space in SPACES:
        for piece in store.pieces(space, 0, PAGES * PAGE_SIZE):
            for address in range(piece.start, piece.end, PAGE_SIZE):
                if piece.source in (MISSING, SERVED):
                    kind = NOT_THERE[piece.source]
                elif piece.source is None:
                    kind = 0
                else:
                    data = ctypes.string_at(piece.source + address - piece.start, PAGE_SIZE)
                    kind = int.from_bytes(data[:8], "little")
                    assert data == content([kind])
                found[space, address // PAGE_SIZE] = kind
    return found


def change(step: int, store: PageStore | None, pages: Pages) -> set[tuple[int, int]]:
    """The same change for the same *step*, to the store and to *pages*; returns what it touches."""
    dice = random.Random(step)
    space, first = dice.choice(SPACES), dice.randrange(PAGES - 1)
    kinds = dice.choices(range(KINDS), k=min(dice.randrange(1, 400), PAGES - first))
    start, end = first * PAGE_SIZE, (first + len(kinds)) * PAGE_SIZE
    what = dice.choice(["put", "put", "put", "zero", "forget", "drop"])
    if what == "drop":
        kinds, first = [-1] * PAGES, 0
    elif what != "put":
        kinds = [0 if what == "zero" else -1] * len(kinds)
    if store is not None:
        if what == "put":
            store.put(space, start, content(kinds))
        elif what == "zero":
            store.zero(space, start, len(kinds))
        elif what == "forget":
            store.forget(space, start, end)
        else:
            store.drop(space)
    touched = {(space, first + offset): kind for offset, kind in enumerate(kinds)}
    pages.update(touched)
    return touched.keys() & pages.keys()


def test_a_killed_writer_loses_no_more_than_it_was_about_to_write(directory: Path) -> None:
    PageStore.create(directory, 16 * MIB).close()
    expected: Pages = {(space, page): -1 for space in SPACES for page in range(PAGES)}
    dice, step = random.Random(1), 0

    def write(pipe: int) -> None:
        with PageStore.open(directory, write=True) as store:
            for number in range(step, step + 10000):
                change(number, store, {})
                os.write(pipe, b".")

    for _ in range(25):
        done = killed_soon(*child(write), dice)
        for number in range(step, step + done):
            change(number, None, expected)
        step += done + 1
        after = dict(expected)
        touched = change(step - 1, None, after)
        with PageStore.open(directory, write=True) as store:
            found = everything(store)
            for space in store.spaces:
                ensure_whole(store, space, store.known_runs(space))
        for place, kind in found.items():
            may_be = {expected[place]} | ({after[place], -1} if place in touched else set())
            assert kind in may_be, (place, step)
        expected = found


def test_a_killed_server_gives_nothing_back_that_another_page_needs(directory: Path) -> None:
    dice = random.Random(2)
    for _ in range(15):
        place = directory / str(dice.random())
        place.mkdir(mode=0o700)
        expected: Pages = {}
        with PageStore.create(place, 16 * MIB) as store:
            store.zero(1, 0, PAGES)
            store.zero(2, 0, PAGES)
            for step in range(40):
                change(step * 7, store, expected)
            before = everything(store)
        ranges = [(first, first + dice.randrange(1, 300)) for first in range(0, PAGES, 50)] * 200

        def serve(pipe: int, place: Path = place, ranges: list[tuple[int, int]] = ranges) -> None:
            with ServedPages(place) as server:
                for first, last in ranges:
                    server.discard(1, first * PAGE_SIZE, last * PAGE_SIZE)
                    os.write(pipe, b".")

        done = killed_soon(*child(serve), dice)
        served = {page for run in ranges[:done] for page in range(*run)}
        perhaps = set(range(*ranges[done])) if done < len(ranges) else set()
        with ServedPages(place) as server:
            for (space, page), kind in everything(server).items():
                was = before[space, page]
                if space == 1 and was != -1 and page in served:
                    assert kind == -2
                elif kind != was:
                    assert (space, page in perhaps, kind) == (1, True, -2)


def test_another_process_sees_what_is_written_later(directory: Path) -> None:
    told, tell = os.pipe()
    with PageStore.create(directory, 16 * MIB) as store:

        def look(pipe: int) -> None:
            with PageStore.open(directory) as other:
                os.write(pipe, b"?")
                while os.read(told, 1) == b"!":
                    os.write(pipe, other.digest(3, [(MIB, 9 * MIB)]))

        pid, pipe = child(look)
        assert os.read(pipe, 1) == b"?"
        data = os.urandom(8 * MIB)
        store.put(2, MIB, data)
        store.drop(2)
        for content in (data, data[::-1]):
            store.put(3, MIB, content)
            os.write(tell, b"!")
            assert os.read(pipe, 32) == store.digest(3, [(MIB, 9 * MIB)])
        os.write(tell, b".")
        assert os.waitpid(pid, 0) == (pid, 0)
    for fd in (told, tell, pipe):
        os.close(fd)


def test_pages_that_several_write_and_serve_at_once_stay_whole(directory: Path) -> None:
    data = content(range(1, 385))
    end = len(data)

    def serve(pipe: int) -> None:
        with ServedPages(directory) as server:
            os.write(pipe, b".")
            for _ in range(1000):
                server.discard(1, 0, end)

    with PageStore.create(directory, 16 * MIB) as store:
        store.put(1, 0, data)
        pid, pipe = child(serve)
        os.read(pipe, 1)
        os.close(pipe)
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            store.put(1, 0, data)
            store.put(2, 0, data)
            assert {kind for place, kind in everything(store).items() if place[0] == 2} == {
                -1,
                *range(1, 385),
            }
            ensure_whole(store, 2, [(0, end)])
            store.drop(2)


FILL = """
import os, sys
from pathlib import Path
from runtime.memory.store import PageStore, StoreFull
from tests.stores import ensure_whole

MIB = 1 << 20
store = PageStore.create(Path(sys.argv[1]), 1 << 30)
tables = sys.argv[2] == "tables"
runs = []
try:
    for at in range(0, 1 << 40, 2 * MIB):
        store.zero(1, at, 256) if tables else store.put(1, at, os.urandom(MIB))
        runs.append((at, at + MIB))
except StoreFull as error:
    print(error)
digest = store.digest(1, runs)
ensure_whole(store, 1, runs)
store.forget(1, runs[-1][0], runs.pop()[1] + MIB)
runs.append((1 << 41, (1 << 41) + MIB))
store.zero(1, runs[-1][0], 256) if tables else store.put(1, runs[-1][0], os.urandom(MIB))
ensure_whole(store, 1, runs)
store.close()
with PageStore.open(Path(sys.argv[1]), write=True) as store:
    ensure_whole(store, 1, runs)
print(len(runs))
"""


@pytest.mark.parametrize("what", ["contents", "tables"])
def test_a_full_filesystem_is_an_error_with_a_remedy(tmp_path: Path, what: str) -> None:
    mounted = 'mount -t tmpfs -o size=8m,mode=0700 mig-test "$0" && exec "$@"'
    python = [sys.executable, "-c", FILL, str(tmp_path), what]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, str(tmp_path), *python],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr == ""
    message, runs = done.stdout.splitlines()
    assert f"page store {tmp_path} is full" in message
    assert "larger disk" in message
    assert int(runs) > 5


def test_contents_are_known_again_after_the_writer_was_killed(directory: Path) -> None:
    data = content(range(300))

    def write(pipe: int) -> None:
        with PageStore.open(directory, write=True) as store:
            store.put(1, 0, data)
            os.write(pipe, b".")
            time.sleep(60)

    PageStore.create(directory, 16 * MIB).close()
    killed_soon(*child(write), random.Random())
    with PageStore.open(directory, write=True) as store:
        assert store.same(7, 5 * PAGE_SIZE, store.hash.of(data)) == []
        assert store.size_bytes < 300 * PAGE_SIZE + MIB
