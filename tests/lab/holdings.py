"""Run in a container: processes that hold one of everything but memory, and know what it must be.

A script of its own, standard library only. After each look it says so in /status/KIND: `ok N` after
the Nth time, what is wrong once.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import pty
import random
import resource
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

WORDS = b"not to be lost"
MIB = 1 << 20
TICK_S = 0.05

libc = ctypes.CDLL(None, use_errno=True)


class Wrong(Exception):
    """Something is not as it was left."""


def must(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise Wrong(f"{what}: {found!r} in place of {expected!r}")


def refused(attempt: Callable[[], object]) -> bool:
    """Whether another process, which has no lock itself, may not do it."""
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except BlockingIOError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


# ---- files


def lock_of_a_file() -> Iterator[None]:
    """flock(2), as databases take it on their directory's file."""
    fd = os.open("/locked", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    while True:
        taken = os.open("/locked", os.O_RDWR)
        must(refused(lambda: fcntl.flock(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)), True, "locked")  # noqa: B023
        os.close(taken)
        yield


def lock_of_records() -> Iterator[None]:
    """fcntl(2): one range to write, one to read."""
    fd = os.open("/records", os.O_RDWR | os.O_CREAT)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 100)
    fcntl.lockf(fd, fcntl.LOCK_SH, 10, 200)
    while True:
        for start, kind, expected in (
            (100, fcntl.LOCK_SH, True),
            (150, fcntl.LOCK_EX, False),
            (200, fcntl.LOCK_EX, True),
            (200, fcntl.LOCK_SH, False),
        ):
            held = refused(lambda: fcntl.lockf(fd, kind | fcntl.LOCK_NB, 10, start))  # noqa: B023
            must(held, expected, f"record {start}, lock {kind}")
        yield


def file_without_a_name() -> Iterator[None]:
    """Open and removed: some MiB that are nowhere else."""
    content = os.urandom(MIB) * 3
    fd = os.open("/removed", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, content)
    os.unlink("/removed")
    while True:
        must(os.pread(fd, len(content) + 1, 0), content, "its content")
        must((os.fstat(fd).st_nlink, os.path.exists("/removed")), (0, False), "its name")
        content = WORDS + content[len(WORDS) :]
        os.pwrite(fd, WORDS, 0)
        yield


def file_with_another_name() -> Iterator[None]:
    """The name that it was opened by is gone, another is left."""
    fd = os.open("/first", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, WORDS)
    os.link("/first", "/second")
    os.unlink("/first")
    while True:
        must(os.pread(fd, 100, 0), WORDS, "its content")
        must(os.fstat(fd).st_ino, os.stat("/second").st_ino, "its other name")
        must(os.path.exists("/first"), False, "its first name")
        must([name for name in os.listdir("/") if "remap" in name], [], "names of CRIU's")
        yield


def place_in_a_file() -> Iterator[None]:
    """Two descriptors with one offset, and one that appends."""
    one = os.open("/numbers", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    other = os.dup(one)
    end = os.open("/numbers", os.O_WRONLY | os.O_APPEND)
    count = 0
    while True:
        os.write(end, b"%8d" % count)
        must(os.read(one if count % 2 else other, 8), b"%8d" % count, "the next number")
        count += 1
        yield


def directories() -> Iterator[None]:
    """One that is open, and the one it works in."""
    os.makedirs("/work/here", exist_ok=True)
    os.chdir("/work/here")
    fd = os.open("/work", os.O_RDONLY | os.O_DIRECTORY)
    while True:
        must(os.getcwd(), "/work/here", "where it works")
        must(os.listdir(fd), ["here"], "what is open")
        yield


# ---- what processes talk through


def pipe_with_words() -> Iterator[None]:
    """A pipe, and one with a name, that nobody has read yet."""
    os.mkfifo("/fifo")
    fifo = os.open("/fifo", os.O_RDWR)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 18)
    content = os.urandom(150_000)
    while True:
        must(os.write(writer, content), len(content), "written")
        os.write(fifo, WORDS)
        yield
        must(os.read(reader, 1 << 20), content, "in the pipe")
        must(os.read(fifo, 100), WORDS, "in the fifo")
        must(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ), 1 << 18, "its size")


def unix_sockets() -> Iterator[None]:
    """A pair, one with an abstract name, one that listens and has been called."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    named.bind(b"\0holdings")
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(b"\0holdings")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("/tmp/listening")
    listening.listen()
    caller = socket.socket(socket.AF_UNIX)
    caller.connect("/tmp/listening")
    called, _ = listening.accept()
    while True:
        left.send(WORDS)
        left.send(b"and more")
        sender.send(WORDS)
        caller.send(WORDS)
        yield
        must([right.recv(100), right.recv(100)], [WORDS, b"and more"], "of the pair")
        must(named.recv(100), WORDS, "of the abstract one")
        must(called.recv(100), WORDS, "of the one that was called")
        with socket.socket(socket.AF_UNIX) as again:
            again.connect("/tmp/listening")
            listening.accept()[0].close()


def tcp_within() -> Iterator[None]:
    """A connection of its own, words on their way in both directions; UDP beside it."""
    listening = socket.create_server(("127.0.0.1", 4000))
    client = socket.create_connection(("127.0.0.1", 4000))
    server, _ = listening.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 4001))
    while True:
        client.sendall(WORDS)
        server.sendall(WORDS[::-1])
        yield
        must(server.recv(100), WORDS, "to the server")
        must(client.recv(100), WORDS[::-1], "to the client")
        must(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1, "TCP_NODELAY")
        must(datagrams.getsockname(), ("127.0.0.1", 4001), "UDP")


def pseudo_terminal() -> Iterator[None]:
    """Both ends of one, raw, of a size of its own."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    attributes = termios.tcgetattr(slave)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 101, 0, 0))
    while True:
        os.write(master, WORDS)
        must(os.read(slave, 100), WORDS, "typed")
        size = struct.unpack("4H", fcntl.ioctl(slave, termios.TIOCGWINSZ, bytes(8)))
        must((size[:2], termios.tcgetattr(slave)), ((33, 101), attributes), "size and modes")
        yield


def system_v() -> Iterator[None]:
    """A queue with a message, semaphores, and a segment of memory."""
    queue = libc.msgget(7, 0o1600)
    semaphores = libc.semget(7, 1, 0o1600)
    libc.semctl(semaphores, 0, 16, 5)  # SETVAL
    segment = libc.shmget(7, mmap.PAGESIZE, 0o1600)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(segment, None, 0)
    message = ctypes.create_string_buffer(struct.pack("l", 3) + WORDS)
    while True:
        ctypes.memmove(address, WORDS, len(WORDS))
        libc.msgsnd(queue, message, len(WORDS), 0)
        yield
        got = ctypes.create_string_buffer(100)
        must(libc.msgrcv(queue, got, 80, 3, 0o4000), len(WORDS), "a message of the queue")
        must(got.raw[8 : 8 + len(WORDS)], WORDS, "the message")
        must(libc.semctl(semaphores, 0, 12), 5, "the semaphore")  # GETVAL
        must(ctypes.string_at(address, len(WORDS)), WORDS, "the segment")


# ---- what the kernel tells through descriptors


def counters() -> Iterator[None]:
    """eventfd(2), and an epoll(7) set that waits for it."""
    event = os.eventfd(0, os.EFD_NONBLOCK)
    poll = select.epoll()
    poll.register(event, select.EPOLLIN)
    count = 0
    while True:
        must(poll.poll(0), [], "nothing to tell")
        count += 1
        os.eventfd_write(event, count)
        yield
        must(poll.poll(0), [(event, select.EPOLLIN)], "what epoll tells")
        must(os.eventfd_read(event), count, "the counter")


def timers() -> Iterator[None]:
    """timerfd_create(2): one that ticks, and one that is far away."""
    ticking = libc.timerfd_create(time.CLOCK_MONOTONIC, 0o4000)
    distant = libc.timerfd_create(time.CLOCK_MONOTONIC, 0o4000)
    one = struct.pack("4l", 0, 20_000_000, 0, 20_000_000)
    libc.timerfd_settime(ticking, 0, one, None)
    libc.timerfd_settime(distant, 0, struct.pack("4l", 0, 0, 5000, 0), None)
    end = time.monotonic() + 5000
    while True:
        must(select.select([ticking], [], [], 5)[0], [ticking], "what ticks")
        must(int.from_bytes(os.read(ticking, 8), sys.byteorder) >= 1, True, "ticks")
        left = ctypes.create_string_buffer(32)
        libc.timerfd_gettime(distant, left)
        seconds, nanoseconds = struct.unpack("4l", left.raw)[2:]
        late_s = seconds + nanoseconds / 1e9 - (end - time.monotonic())
        # CRIU arms it with what was left; the clock has gone on while it restored the rest.
        must(-1 < late_s < 60, True, f"{late_s} s late is the distant one: this")
        yield


def signals_as_descriptor() -> Iterator[None]:
    """signalfd(2), with a signal that waits."""
    mask = struct.pack("Q", 1 << (signal.SIGUSR1 - 1))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    fd = libc.signalfd(-1, mask, 0o4000)
    while True:
        os.kill(os.getpid(), signal.SIGUSR1)
        yield
        must(os.read(fd, 128)[:4], struct.pack("I", signal.SIGUSR1), "the signal")


def watched_directory() -> Iterator[None]:
    """inotify(7)."""
    os.makedirs("/watched", exist_ok=True)
    fd = libc.inotify_init1(0o4000)
    libc.inotify_add_watch(fd, b"/watched", 0x100)  # IN_CREATE
    while True:
        # CRIU drops what was not read yet, and so may have dropped one (criu/fsnotify.c).
        must(_is_told(fd) or _is_told(fd), True, "that a file was made")
        yield


def _is_told(fd: int) -> bool:
    with open("/watched/new", "w"):
        pass
    os.unlink("/watched/new")
    with suppress(BlockingIOError):
        return b"new" in os.read(fd, 4096)
    return False


def memory_file() -> Iterator[None]:
    """memfd_create(2), sealed."""
    fd = os.memfd_create("held", os.MFD_ALLOW_SEALING)
    os.write(fd, WORDS)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    while True:
        must(os.pread(fd, 100, 0), WORDS, "its content")
        must(fcntl.fcntl(fd, fcntl.F_GET_SEALS), seals, "its seals")
        yield


def shared_memory() -> Iterator[None]:
    """A mapping of two processes, one of which writes all over it."""
    memory = mmap.mmap(-1, 8 * MIB)
    places = range(0, len(memory), mmap.PAGESIZE)
    for place in places:
        struct.pack_into("QQ", memory, place, place, 0)
    if (writer := os.fork()) == 0:
        _write_all_over(memory)
    while True:
        found = [struct.unpack_from("Q", memory, place)[0] for place in places]
        must(found, list(places), "its pages")
        must(os.waitpid(writer, os.WNOHANG), (0, 0), "who writes to it and finds it right")
        yield


def _write_all_over(memory: mmap.mmap) -> None:
    """Ends with the first page that is not as it was left."""
    counts = [0] * (len(memory) // mmap.PAGESIZE)
    while True:
        for number in random.sample(range(len(counts)), 50):
            place = number * mmap.PAGESIZE + 8
            if struct.unpack_from("Q", memory, place)[0] != counts[number]:
                os._exit(1)
            counts[number] += 1
            struct.pack_into("Q", memory, place, counts[number])
        time.sleep(TICK_S)


# ---- what a process is


def children() -> Iterator[None]:
    """One that has ended, one that is stopped, one in a session of its own."""
    if (ended := os.fork()) == 0:
        os._exit(7)
    stopped, leader = _sleeper(), _sleeper(os.setsid)
    os.kill(stopped, signal.SIGSTOP)
    os.waitpid(stopped, os.WUNTRACED)
    while True:
        must(_state(ended), "Z", "the ended one")
        for _ in range(100):  # while it is continued and stopped again, it is seen to run
            if _state(stopped) == "T":
                break
            time.sleep(0.01)
        must(_state(stopped), "T", "the stopped one")
        must(os.getsid(leader), leader, "the session")
        yield


def _sleeper(first: Callable[[], object] = lambda: None) -> int:
    ready, told = os.pipe()
    if (pid := os.fork()) == 0:
        first()
        os.write(told, b"1")
        while True:
            signal.pause()
    os.read(ready, 1)
    os.close(ready)
    os.close(told)
    return pid


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def what_it_is() -> Iterator[None]:
    """Name, mask, priority, limits, pending and blocked signals, an alarm."""
    libc.prctl(15, b"named", 0, 0, 0)  # PR_SET_NAME
    os.umask(0o31)
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGRTMIN})
    os.kill(os.getpid(), signal.SIGUSR2)
    rang: list[float] = []
    signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    while True:
        with open("/proc/self/comm") as file:
            must(file.read(), "named\n", "its name")
        must((os.umask(0o31), os.nice(0)), (0o31, 5), "mask and priority")
        must(resource.getrlimit(resource.RLIMIT_NOFILE), (200, 300), "a limit")
        must(signal.sigpending(), {signal.SIGUSR2}, "what is pending")
        rang.clear()
        time.sleep(0.06)
        must(len(rang) >= 1, True, "that the alarm rang")
        yield


def reservation() -> Iterator[None]:
    """More addresses than any machine has memory, to be used some time: as databases reserve."""
    libc.mmap.restype = ctypes.c_void_p
    size = 1 << 43
    start = libc.mmap(None, ctypes.c_size_t(size), 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    while True:
        must(f"{start:x}-{start + size:x} ---p" in _text("/proc/self/maps"), True, "reserved")
        yield


def threads() -> Iterator[None]:
    """Some that wait for each other (futex(2)), each with its name."""
    turn = threading.Condition()
    turns = [0, 0, 0]

    def work(number: int) -> None:
        libc.prctl(15, b"thread-%d" % number, 0, 0, 0)
        while True:
            with turn:
                turns[number] += 1
                turn.notify_all()
                turn.wait()

    for number in range(3):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    while True:
        with turn:
            turn.notify_all()
        before = list(turns)
        for _ in range(200):
            time.sleep(0.005)
            if all(now > then for now, then in zip(turns, before, strict=True)):
                break
        else:
            raise Wrong(f"their turns: {before}, then {turns}")
        names = [_text(f"/proc/self/task/{task}/comm") for task in os.listdir("/proc/self/task")]
        must(sorted(names)[-3:], [f"thread-{number}\n" for number in range(3)], "their names")
        yield


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


KINDS = (
    *(lock_of_a_file, lock_of_records, file_without_a_name, file_with_another_name),
    *(place_in_a_file, directories, pipe_with_words, unix_sockets, tcp_within, pseudo_terminal),
    *(system_v, counters, timers, signals_as_descriptor, watched_directory, memory_file),
    *(shared_memory, children, what_it_is, reservation, threads),
)


def hold(kind: Callable[[], Iterator[None]]) -> None:
    """For ever, or until it is wrong."""
    path = f"/status/{kind.__name__}"
    try:
        for count, _ in enumerate(kind(), 1):
            _say(path, f"ok {count}")
            time.sleep(TICK_S)
    except BaseException as error:  # noqa: BLE001 - whatever it is
        _say(path, f"{type(error).__name__}: {error}")
    while True:
        signal.pause()


def _say(path: str, what: str) -> None:
    with open(f"{path}.new", "w") as file:
        file.write(what)
    os.rename(f"{path}.new", path)


def main(names: list[str]) -> None:
    os.makedirs("/status", exist_ok=True)
    for kind in KINDS:
        if kind.__name__ in names and os.fork() == 0:
            hold(kind)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
