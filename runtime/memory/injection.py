"""A userfaultfd of another process's memory: made by one of its threads, held by us alone.

userfaultfd(2) is bound to the memory of its caller, so a thread of the target has to call it. It is
stopped for that (PTRACE_SEIZE, PTRACE_INTERRUPT), sent onto a detour, and the descriptor is taken
over by pidfd_getfd(2) between the two calls that the detour makes.

**Our death.** A tracer that dies leaves its tracee running with the registers that it has then, so
putting registers back must never be what the target depends on. The detour (registers.py) does it
by itself: code, put into the unused end of the vDSO, that closes the descriptor, sets the signal
mask and all registers as they were, and jumps to where the thread was - into the interrupted system
call again, if it was in one. What is done at which moment, and what follows if we die then:

1. detour written      not in use: the thread goes on where it was
2. pc set onto it      it runs the detour: close(-1), close(-EBADF), back to where it was
3. signals blocked     the same; its own mask is set on the way
4. close(-1) entered   there, and only there, it is turned into userfaultfd(2): the detour closes it
5. descriptor taken, close(2) done, mask and registers set by us: where it was

So no moment leaves it with changed registers, or with a descriptor. While the thread is on its
detour its signals wait, in the kernel, as they do in an interrupted sigsuspend(2). A seccomp filter
is suspended for a traced thread (PTRACE_O_SUSPEND_SECCOMP, what CRIU does): since every filter lets
close(2) pass, the detour alone calls nothing that is forbidden.

The vDSO's page becomes a private copy of the target's own, as by a debugger's breakpoint; its
unused end is zeros again afterwards. A detour that our death left there bears the id of its thread,
and is overwritten when that thread is seen to be elsewhere.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from runtime.memory import ptrace, userfaultfd
from runtime.memory.ptrace import Thread
from runtime.memory.registers import Machine, machine
from runtime.memory.runs import PAGE
from runtime.syscalls import pidfd_getfd

STOP_TIMEOUT_S = 0.1
_ATTEMPTS = 20
_PAUSE_S = 0.0005
_ALL_SIGNALS = (1 << 64) - 1
_AT_SYSINFO_EHDR = 33
_PROT_NONE = 0  # sys/mman.h
# Room for the longest detour, and the id of the thread that it is for in the last word.
_SLOT_BYTES = 256
# Of an ELF header of 64 bits: e_shoff, e_shentsize, e_shnum (elf(5))
_ELF_HEADER = struct.Struct("<4s36xQ10xHH2x")


class _Call(NamedTuple):
    """A system call that a thread is to make."""

    name: str
    number: int
    arguments: tuple[int, ...]
    #: it makes a descriptor, which is to be ours alone
    descriptor: bool
    #: how long the thread may take to each of its stops
    timeout_s: float


class _Unfit(Exception):
    """The thread stands where it must not be sent away from; it will go on by itself."""


def take_userfaultfd(
    pid: int,
    mem_fd: int,
    *,
    flags: int = userfaultfd.USER_MODE_ONLY,
    timeout_s: float = STOP_TIMEOUT_S,
) -> tuple[int, int]:
    """Make and take over a userfaultfd of process *pid*; and for how many us it stood for that.

    mem_fd: its /proc/PID/mem; the userfaultfd is of the same memory. timeout_s: how long it may
    take to each of its stops. To be called in a thread that ends soon: what does not stop in time
    is detached by that. Raises OSError, the target being as before: EPERM may not be traced;
    ETIMEDOUT no thread of it stops; EMFILE it has no descriptor left; ENOEXEC 32 bit, or no room
    for a detour; ESRCH it has ended or executed another program.
    """
    here = _known_machine()
    arguments = (os.O_CLOEXEC | os.O_NONBLOCK | flags,)
    call = _Call("userfaultfd", here.userfaultfd, arguments, True, timeout_s)
    return _inject(pid, mem_fd, here, call)


def map_nothing(pid: int, mem_fd: int, size: int, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
    """Have process *pid* map *size* bytes of private memory that it may not touch; their address.

    A tracer that dies meanwhile may leave it with other registers than it had: it is to be a
    process that dies then too. To be called as, and raises what, take_userfaultfd does.
    """
    here = _known_machine()
    arguments = (0, size, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    call = _Call("mmap", here.mmap, arguments, False, timeout_s)
    return _inject(pid, mem_fd, here, call)[0]


def _known_machine() -> Machine:
    here = machine()
    if here is None:
        raise OSError(errno.ENOSYS, f"no registers known for {os.uname().machine}")
    return here


def _inject(pid: int, mem_fd: int, here: Machine, call: _Call) -> tuple[int, int]:
    end_of_vdso = _end_of_vdso(pid, mem_fd)
    pidfd = os.pidfd_open(pid)
    failure: OSError = ProcessLookupError(errno.ESRCH, "has no thread", f"process {pid}")
    try:
        for tid in _threads(pid):
            try:
                return _Injection(pid, tid, here, mem_fd, end_of_vdso, pidfd, call).run()
            except TimeoutError as exc:
                failure = exc
    finally:
        os.close(pidfd)
    raise failure


def _threads(pid: int) -> list[int]:
    """The leader first, those in uninterruptible sleep last; not more than a few."""
    tids = [pid, *sorted(int(name) for name in os.listdir(f"/proc/{pid}/task") if name != str(pid))]
    return sorted(tids[:4], key=lambda tid: _state(pid, tid) in "DZX")


def _state(pid: int, tid: int) -> str:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{tid}/stat").read_text(errors="replace")
        return text[text.rindex(")") + 2]
    return "X"


@dataclass(frozen=True, slots=True)
class _Injection:
    """One thread's detour, to be written behind the end of the vDSO. pidfd: of the process."""

    pid: int
    tid: int
    here: Machine
    mem_fd: int
    end_of_vdso: int
    pidfd: int
    call: _Call

    def run(self) -> tuple[int, int]:
        options = ptrace.O_SUSPEND_SECCOMP if _is_filtered(self.pid, self.tid) else 0
        for _ in range(_ATTEMPTS):
            thread = Thread.seize(self.tid, self.here, options=options)
            began = time.perf_counter_ns()
            try:
                thread.stop(self.call.timeout_s)
                taken = self._by_detour(thread)
            except _Unfit:
                thread.detach()
                time.sleep(_PAUSE_S)
                continue
            except BaseException:
                with suppress(OSError):
                    thread.detach()
                raise
            # Killed since: what we have then is of no use, and closed with its space.
            with suppress(ProcessLookupError):
                thread.detach()
            return taken, (time.perf_counter_ns() - began) // 1000
        raise TimeoutError(errno.ETIMEDOUT, "is always in a critical section", f"thread {self.tid}")

    def _by_detour(self, thread: Thread) -> int:
        registers = thread.registers()
        if _in_critical_section(thread, self.mem_fd, self.here.in_user_code(registers)):
            raise _Unfit
        mask = thread.signal_mask()
        place = self._free_slot(self.here.pc(registers))
        detour = self.here.detour(place, registers, mask)
        assert len(detour) <= _SLOT_BYTES - 8
        thread.poke(place, detour)
        thread.poke(place + _SLOT_BYTES - 8, struct.pack("<Q", thread.tid))
        try:
            thread.set_registers(self.here.sent_to(place, registers))
            thread.set_signal_mask(_ALL_SIGNALS)
            return self._call(thread)
        finally:
            # If it is not stopped any more, it is dead or ends its detour without us.
            with suppress(ProcessLookupError):
                thread.set_signal_mask(mask)
                thread.set_registers(registers)
                thread.poke(place, bytes(len(detour)))
                thread.poke(place + _SLOT_BYTES - 8, bytes(8))

    def _free_slot(self, pc: int) -> int:
        """An address where a detour may be written: zeros, or one that nobody is on."""
        end = self.end_of_vdso
        unused = os.pread(self.mem_fd, -end % PAGE, end)
        if not unused:
            # Memory that is gone reads as nothing.
            raise ProcessLookupError(errno.ESRCH, "has executed another program", str(self.pid))
        for offset in range(0, len(unused) - _SLOT_BYTES + 1, _SLOT_BYTES):
            owner = int.from_bytes(unused[offset : offset + _SLOT_BYTES][-8:], "little")
            slot = range(end + offset, end + offset + _SLOT_BYTES)
            if owner == self.tid and pc not in slot:
                return slot.start
            if not owner or (owner != self.tid and _is_elsewhere(self.pid, owner, slot)):
                return slot.start
        raise OSError(errno.ENOEXEC, "no room in its vDSO", f"process {self.pid}")

    def _call(self, thread: Thread) -> int:
        """Turn the first close into the call, take its result, let the second one close."""
        name, number, arguments, descriptor, timeout_s = self.call
        thread.to_system_call(timeout_s)
        calling = self.here.calling(thread.registers(), number, *arguments)
        thread.set_registers(calling, call=number)
        thread.to_system_call(timeout_s)
        registers = thread.registers()
        taken = result = self.here.result(registers)
        with ExitStack() as stack:
            if not descriptor:
                thread.set_registers(self.here.returning(registers, -1))  # nothing to close
            elif result >= 0:
                taken = pidfd_getfd(self.pidfd, result)
                stack.callback(os.close, taken)
            thread.to_system_call(timeout_s)
            thread.to_system_call(timeout_s)
            stack.pop_all()
        if result < 0:
            raise OSError(-result, f"{name}: {os.strerror(-result)}")
        return taken


def _is_filtered(pid: int, tid: int) -> bool:
    """Whether seccomp watches the thread, and we may have that suspended for it."""
    status = Path(f"/proc/{pid}/task/{tid}/status").read_text(errors="replace")
    return "\nSeccomp:\t0\n" not in status and "\nSeccomp:" in status


def _in_critical_section(thread: Thread, mem_fd: int, pc: int | None) -> bool:
    """Whether it is in a restartable sequence, which being sent away would break unseen (rseq(2)).

    The kernel would find pc outside of it, and no longer abort it afterwards.
    """
    if pc is None or (address := thread.restartable_sequences()) is None:
        return False
    try:
        (section,) = struct.unpack("<Q", os.pread(mem_fd, 8, address + 8))
        if not section:
            return False
        start, length = struct.unpack("<8xQQ8x", os.pread(mem_fd, 32, section))
    except (OSError, struct.error):
        return False
    return bool(start <= pc < start + length)


def _end_of_vdso(pid: int, mem_fd: int) -> int:
    auxv = Path(f"/proc/{pid}/auxv").read_bytes()
    vectors = dict(struct.iter_unpack("<QQ", auxv[: len(auxv) // 16 * 16]))
    if not (base := vectors.get(_AT_SYSINFO_EHDR)):
        raise OSError(errno.ENOEXEC, "has no vDSO", f"process {pid}")
    header = os.pread(mem_fd, _ELF_HEADER.size, base)
    if len(header) < _ELF_HEADER.size:
        raise ProcessLookupError(errno.ESRCH, "has ended", f"process {pid}")
    magic, headers, size, count = _ELF_HEADER.unpack(header)
    if magic != b"\x7fELF":
        raise OSError(errno.ENOEXEC, "has an unknown vDSO", f"process {pid}")
    # Section headers are the last of the image (objcopy writes it so, and the kernel maps it).
    end: int = base + headers + size * count
    return -(-end // 8) * 8


def _is_elsewhere(pid: int, tid: int, slot: range) -> bool:
    """Whether the thread has ended, or sleeps and is not in the slot (proc_pid_syscall(5))."""
    try:
        words = Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return words[0] != "running" and int(words[-1], 16) not in slot


def tracer_of(pid: int) -> int:
    """The pid of who traces the process, 0 for nobody. Raises OSError when it is gone."""
    status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    return int(status.partition("\nTracerPid:")[2].split(None, 1)[0])
