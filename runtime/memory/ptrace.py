"""A thread of another process, stopped for an instant (ptrace(2)).

The kernel knows the tracer by its thread: one that `in_a_thread` runs work in detaches, by its end,
whatever is still attached. While one thread of the target is stopped, we hold Python's
lock (PyDLL): another thread of ours would otherwise lengthen the stop by its turns of 5 ms.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Callable
from ctypes import c_int, c_long, c_size_t, c_uint64, c_void_p
from typing import Any

from runtime.memory.registers import NT_ARM_SYSTEM_CALL, NT_PRSTATUS, Machine, Registers

# linux/ptrace.h
_POKEDATA = 5
_CONT = 7
_DETACH = 17
_SYSCALL = 24
_GETREGSET = 0x4204
_SETREGSET = 0x4205
_SEIZE = 0x4206
_INTERRUPT = 0x4207
_GETSIGMASK = 0x420A
_SETSIGMASK = 0x420B
_GET_RSEQ_CONFIGURATION = 0x420F
O_TRACESYSGOOD = 1 << 0
O_SUSPEND_SECCOMP = 1 << 21
_EVENT_STOP = 128

# bits/waitflags.h, asm-generic/siginfo.h
_P_PID = 1
_WNOHANG, _WSTOPPED, _WALL, _WNOTHREAD = 1, 2, 0x40000000, 0x20000000
_SI_PID, _SI_STATUS = 4, 6  # indices of ints, where long has 64 bits

_SYSCALL_STOP = signal.SIGTRAP | 0x80
_SPIN_S = 0.002
_PAUSE_S = 0.0002

_libc = ctypes.PyDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = (c_long, c_long, c_void_p, c_void_p)
_ptrace.restype = c_long
_waitid = _libc.waitid
_waitid.argtypes = (c_int, c_int, c_void_p, c_int)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", c_void_p), ("len", c_size_t))


class Thread:
    """One seized thread. Every call but seize wants it stopped, else it raises ESRCH."""

    def __init__(self, tid: int, machine: Machine | None) -> None:
        self.tid = tid
        self._machine = machine
        self._info = (c_int * 32)()

    @classmethod
    def seize(cls, tid: int, machine: Machine | None = None, *, options: int = 0) -> Thread:
        """Attach; the thread runs on. EPERM: somebody traces it, or it must not be traced."""
        thread = cls(tid, machine)
        thread._call(_SEIZE, 0, options | O_TRACESYSGOOD)
        return thread

    def stop(self, timeout_s: float) -> None:
        """Have it stop; TimeoutError: it sleeps uninterruptibly, or gets no processor.

        A signal that it was about to take is given to it before.
        """
        self._call(_INTERRUPT)
        self._await(timeout_s, wanted=lambda event, number: event == _EVENT_STOP, resume=_CONT)

    def to_system_call(self, timeout_s: float) -> None:
        """Let it run to the entry or, from there, to the exit of its next system call.

        Of the signals only SIGSTOP is to be expected: whoever uses this blocks the others. It takes
        effect when the thread is let go.
        """
        self._call(_SYSCALL)
        self._await(
            timeout_s, wanted=lambda event, number: number == _SYSCALL_STOP, resume=_SYSCALL
        )

    def detach(self) -> None:
        """Let it go; the kernel restarts a call that we interrupted."""
        self._call(_DETACH)

    def registers(self) -> Registers:
        assert self._machine
        words = (c_uint64 * self._machine.words)()
        if self._regset(_GETREGSET, NT_PRSTATUS, words) != ctypes.sizeof(words):
            # A thread in 32 bit mode has smaller ones.
            raise OSError(errno.ENOEXEC, "not a process of this machine's own word size")
        return tuple(words)

    def set_registers(self, registers: Registers, *, call: int = -1) -> None:
        """*call*: the number of the call in progress, where that is a register set of its own."""
        assert self._machine
        self._regset(_SETREGSET, NT_PRSTATUS, (c_uint64 * len(registers))(*registers))
        if self._machine.call_apart:
            self._regset(_SETREGSET, NT_ARM_SYSTEM_CALL, (c_int * 1)(call))

    def signal_mask(self) -> int:
        """Blocked signals, as they are when an interrupted sigsuspend and the like has ended."""
        mask = c_uint64()
        self._call(_GETSIGMASK, ctypes.sizeof(mask), ctypes.addressof(mask))
        return mask.value

    def set_signal_mask(self, mask: int) -> None:
        value = c_uint64(mask)
        self._call(_SETSIGMASK, ctypes.sizeof(value), ctypes.addressof(value))

    def poke(self, address: int, data: bytes) -> None:
        """Write whole words, also where the target itself may only read or execute."""
        for offset in range(0, len(data), 8):
            word = int.from_bytes(data[offset : offset + 8], "little")
            self._call(_POKEDATA, address + offset, word)

    def restartable_sequences(self) -> int | None:
        """Address of the thread's struct rseq; None without one, and on kernels before 5.13."""
        configuration = (c_uint64 * 3)()
        try:
            self._call(
                _GET_RSEQ_CONFIGURATION,
                ctypes.sizeof(configuration),
                ctypes.addressof(configuration),
            )
        except OSError:
            return None
        return configuration[0] or None

    def _regset(self, request: int, kind: int, values: ctypes.Array[Any]) -> int:
        vector = _Iovec(ctypes.addressof(values), ctypes.sizeof(values))
        self._call(request, kind, ctypes.addressof(vector))
        return int(vector.len)

    def _call(self, request: int, address: int = 0, data: int = 0) -> None:
        if _ptrace(request, self.tid, address, data) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), f"thread {self.tid}")

    def _await(self, timeout_s: float, *, wanted: Callable[[int, int], bool], resume: int) -> None:
        """Wait for a stop that is *wanted* by event and signal; past any other it is sent on."""
        began = time.monotonic()
        while True:
            status = self._stop_status()
            if status is not None:
                event, number = status >> 8, status & 0xFF
                if wanted(event, number):
                    return
                self._call(resume, 0, 0 if event or number == _SYSCALL_STOP else number)
                continue
            waited = time.monotonic() - began
            if waited > timeout_s:
                raise TimeoutError(errno.ETIMEDOUT, "does not stop", f"thread {self.tid}")
            if waited > _SPIN_S:
                time.sleep(_PAUSE_S)
            else:
                _libc.sched_yield()  # the target may want this very processor

    def _stop_status(self) -> int | None:
        """Event and signal of a new stop; ends are left to whoever is the parent."""
        self._info[_SI_PID] = 0
        flags = _WSTOPPED | _WNOHANG | _WALL | _WNOTHREAD
        if _waitid(_P_PID, self.tid, ctypes.addressof(self._info), flags) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), f"thread {self.tid}")
        return self._info[_SI_STATUS] if self._info[_SI_PID] else None
