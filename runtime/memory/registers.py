"""Registers and machine code for system calls made by a stopped thread: x86-64 and aarch64.

A *detour* is a piece of code that makes these calls and then goes on where the thread was, all by
itself: whoever set the thread onto it may die at any moment. It is

    close(-1)            which the tracer turns into the call it wants, seen at its entry
    close(<its result>)
    rt_sigprocmask(SIG_SETMASK, <the thread's own mask>)
    registers as before, jump to where the thread was

Register sets: struct user_regs_struct (sys/user.h) and struct user_pt_regs (asm/ptrace.h).
"""

from __future__ import annotations

import platform
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache, partial

# linux/elf.h; the latter is aarch64's number of the call in progress, an int of 4 bytes
NT_PRSTATUS = 1
NT_ARM_SYSTEM_CALL = 0x404

_SIG_SETMASK = 2
_SIGSET_BYTES = 8
_U64 = (1 << 64) - 1

Registers = tuple[int, ...]


class Machine(ABC):
    """What differs between the architectures; registers are tuples of 64 bit words."""

    name: str
    words: int
    # Whether the call in progress is a register set of its own, and not one of the words.
    call_apart: bool
    userfaultfd: int
    kcmp: int
    mmap: int

    @abstractmethod
    def detour(self, address: int, registers: Registers, mask: int) -> bytes:
        """The code, for *address*, that takes the thread back to *registers* and signal *mask*."""

    @abstractmethod
    def sent_to(self, address: int, registers: Registers) -> Registers:
        """*registers* with the thread at *address*, and no call left to be restarted."""

    @abstractmethod
    def calling(self, registers: Registers, number: int, *arguments: int) -> Registers:
        """At the entry of a call: with another call's *number* and first *arguments* instead."""

    @abstractmethod
    def returning(self, registers: Registers, result: int) -> Registers:
        """At the exit of a call: with *result* as what it returns."""

    @abstractmethod
    def result(self, registers: Registers) -> int:
        """At the exit of a call: what it returns, or -errno."""

    @abstractmethod
    def pc(self, registers: Registers) -> int:
        """Where the thread is."""

    @abstractmethod
    def in_user_code(self, registers: Registers) -> int | None:
        """Where the thread was interrupted, None if that was in a system call."""


class X86(Machine):
    name = "x86_64"
    words = 27
    call_apart = False
    userfaultfd = 323
    kcmp = 312
    mmap = 9

    # Indices into struct user_regs_struct
    _R11, _R10, _R9, _R8, _RAX, _RCX = 6, 7, 8, 9, 10, 11
    _RDX, _RSI, _RDI, _ORIG_RAX, _RIP = 12, 13, 14, 15, 16
    _ARGUMENTS = (_RDI, _RSI, _RDX, _R10, _R8, _R9)
    _CLOSE, _RT_SIGPROCMASK, _RESTART_SYSCALL = 3, 14, 219
    _SYSCALL = b"\x0f\x05"
    # ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND: the call starts again (linux/errno.h)
    _AGAIN = (-512, -513, -514)
    _RESTART_BLOCK = -516

    def detour(self, address: int, registers: Registers, mask: int) -> bytes:
        rip, rax = self._resumption(registers)
        # A piece of code with a value ends in the value's place, relative to the next instruction.
        pieces: list[tuple[bytes, int | None]] = [
            (b"\xbf" + struct.pack("<i", -1), None),  # mov edi, -1
            (self._call(self._CLOSE), None),
            (b"\x89\xc7", None),  # mov edi, eax
            (self._call(self._CLOSE), None),
            (b"\xbf" + struct.pack("<i", _SIG_SETMASK), None),  # mov edi, SIG_SETMASK
            (b"\x48\x8d\x35", mask),  # lea rsi, [value]
            (b"\xba" + struct.pack("<i", 0), None),  # mov edx, 0, which leaves the flags alone
            (b"\x41\xba" + struct.pack("<i", _SIGSET_BYTES), None),  # mov r10d, 8
            (self._call(self._RT_SIGPROCMASK), None),
            (b"\x48\x8b\x05", rax),  # mov rax, [value], and so on: what the calls have changed
            (b"\x48\x8b\x0d", registers[self._RCX]),
            (b"\x4c\x8b\x1d", registers[self._R11]),
            (b"\x48\x8b\x3d", registers[self._RDI]),
            (b"\x48\x8b\x35", registers[self._RSI]),
            (b"\x48\x8b\x15", registers[self._RDX]),
            (b"\x4c\x8b\x15", registers[self._R10]),
            (b"\xff\x25", rip),  # jmp [value]
        ]
        values = [value for _, value in pieces if value is not None]
        size = sum(len(code) for code, _ in pieces) + 4 * len(values)
        place = _aligned(size)
        linked = b""
        for code, value in pieces:
            linked += code
            if value is not None:
                linked += struct.pack("<i", place - len(linked) - 4)
                place += 8
        return linked.ljust(_aligned(size), b"\0") + struct.pack(f"<{len(values)}Q", *values)

    def _call(self, number: int) -> bytes:
        return b"\xb8" + struct.pack("<i", number) + self._SYSCALL  # mov eax, number; syscall

    def _resumption(self, registers: Registers) -> tuple[int, int]:
        """rip and rax as the kernel would set them for an interrupted call (handle_signal)."""
        rip, rax = registers[self._RIP], registers[self._RAX]
        if self.in_user_code(registers) is None:
            if _signed(rax) in self._AGAIN:
                return rip - len(self._SYSCALL), registers[self._ORIG_RAX]
            if _signed(rax) == self._RESTART_BLOCK:
                return rip - len(self._SYSCALL), self._RESTART_SYSCALL
        return rip, rax

    def sent_to(self, address: int, registers: Registers) -> Registers:
        return _with(registers, {self._RIP: address, self._ORIG_RAX: _U64})

    def calling(self, registers: Registers, number: int, *arguments: int) -> Registers:
        given = dict(zip(self._ARGUMENTS, arguments, strict=False))
        return _with(registers, {self._ORIG_RAX: number, **given})

    def returning(self, registers: Registers, result: int) -> Registers:
        return _with(registers, {self._RAX: result})

    def result(self, registers: Registers) -> int:
        return _signed(registers[self._RAX])

    def pc(self, registers: Registers) -> int:
        return registers[self._RIP]

    def in_user_code(self, registers: Registers) -> int | None:
        return registers[self._RIP] if _signed(registers[self._ORIG_RAX]) < 0 else None


class Aarch64(Machine):
    """The kernel has wound an interrupted call back before a tracer sees it: pc is at the svc.

    A relative sleep (nanosleep and its like) that is interrupted starts again in full: that it was
    one is known to the kernel alone by then.
    """

    name = "aarch64"
    words = 34
    call_apart = True
    userfaultfd = 282
    kcmp = 272
    mmap = 222

    _PC = 32
    _CLOSE, _RT_SIGPROCMASK = 57, 135
    _SVC = 0xD4000001
    _BRANCH_BYTES = 1 << 27

    def detour(self, address: int, registers: Registers, mask: int) -> bytes:
        pc = registers[self._PC]
        # An instruction that refers to a value is made when it is known how far away that is.
        code: list[int | tuple[Callable[[int], int], int]] = [
            0x92800000,  # mov x0, #-1
            *self._call(self._CLOSE),
            *self._call(self._CLOSE),
            _movz(0, _SIG_SETMASK),
            (partial(_adr, 1), mask),
            _movz(2, 0),
            _movz(3, _SIGSET_BYTES),
            *self._call(self._RT_SIGPROCMASK),
            *((partial(_load, number), registers[number]) for number in (0, 1, 2, 3, 8)),
        ]
        distance = pc - address - 4 * len(code)
        if abs(distance) < self._BRANCH_BYTES:
            code.append(0x14000000 | (distance // 4 & 0x03FFFFFF))  # b pc
        else:
            # x17 may be changed on any way from function to function; ret asks for no landing pad.
            code += [(partial(_load, 17), pc), 0xD65F0220]  # ret x17
        values = [word[1] for word in code if isinstance(word, tuple)]
        place = _aligned(4 * len(code))
        words: list[int] = []
        for word in code:
            if isinstance(word, tuple):
                words.append(word[0](place - 4 * len(words)))
                place += 8
            else:
                words.append(word)
        linked = struct.pack(f"<{len(words)}I", *words)
        return linked.ljust(_aligned(len(linked)), b"\0") + struct.pack(f"<{len(values)}Q", *values)

    def _call(self, number: int) -> tuple[int, int]:
        return _movz(8, number), self._SVC

    def sent_to(self, address: int, registers: Registers) -> Registers:
        return _with(registers, {self._PC: address})

    def calling(self, registers: Registers, number: int, *arguments: int) -> Registers:
        # The number is not here: NT_ARM_SYSTEM_CALL.
        return _with(registers, dict(enumerate(arguments)))

    def returning(self, registers: Registers, result: int) -> Registers:
        return _with(registers, {0: result})

    def result(self, registers: Registers) -> int:
        return _signed(registers[0])

    def pc(self, registers: Registers) -> int:
        return registers[self._PC]

    def in_user_code(self, registers: Registers) -> int | None:
        # Whether it was in a call is not to be seen any more; at an svc it is never in between.
        return registers[self._PC]


def _movz(register: int, value: int) -> int:
    return 0xD2800000 | value << 5 | register


def _load(register: int, offset: int) -> int:
    return 0x58000000 | (offset // 4 & 0x7FFFF) << 5 | register  # ldr register, [pc + offset]


def _adr(register: int, offset: int) -> int:
    return 0x10000000 | (offset & 3) << 29 | (offset >> 2 & 0x7FFFF) << 5 | register


def _aligned(size: int) -> int:
    return -(-size // 8) * 8


def _with(registers: Registers, changes: dict[int, int]) -> Registers:
    changed = list(registers)
    for index, value in changes.items():
        changed[index] = value & _U64
    return tuple(changed)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


@cache
def machine() -> Machine | None:
    """This machine's; None for one that is not known here."""
    known: dict[str, Machine] = {"x86_64": X86(), "aarch64": Aarch64()}
    return known.get(platform.machine())
