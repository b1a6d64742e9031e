"""The way back of a thread that was sent to make a system call, for each architecture."""

import struct
from collections.abc import Callable

import pytest

from runtime.memory.registers import X86, Aarch64, Registers

MASK = 0x1234
PLACE = 0x7000_0000
RIP, RAX, ORIG_RAX = 16, 10, 15
U64 = 1 << 64


def x86_values(registers: Registers) -> tuple[int, ...]:
    """What the detour has behind its code: signal mask, rax, rcx, r11, rdi, rsi, rdx, r10, rip."""
    return struct.unpack("<9Q", X86().detour(PLACE, registers, MASK)[-72:])


def x86_registers(*, rax: int, orig_rax: int) -> Registers:
    words = [1000 + n for n in range(27)]
    words[RAX], words[ORIG_RAX] = rax % U64, orig_rax % U64
    return tuple(words)


def test_a_thread_in_user_code_goes_on_there() -> None:
    registers = x86_registers(rax=-512, orig_rax=-1)
    assert x86_values(registers) == (MASK, -512 % U64, 1011, 1006, 1014, 1013, 1012, 1007, 1016)


@pytest.mark.parametrize(
    ("rax", "expected"),
    [
        (-512, (7, 1014)),  # ERESTARTSYS: rax is the call's number again, rip at the instruction
        (-513, (7, 1014)),
        (-514, (7, 1014)),
        (-516, (219, 1014)),  # ERESTART_RESTARTBLOCK: restart_syscall
        (-4, (-4 % U64, 1016)),  # EINTR: done
        (55, (55, 1016)),
    ],
)
def test_an_interrupted_call_starts_again_where_the_kernel_would_do_so(
    rax: int, expected: tuple[int, int]
) -> None:
    values = x86_values(x86_registers(rax=rax, orig_rax=7))
    assert (values[1], values[8]) == expected


def test_nothing_is_restarted_while_a_thread_is_away() -> None:
    sent = X86().sent_to(PLACE, x86_registers(rax=-512, orig_rax=7))
    assert (sent[RIP], sent[ORIG_RAX]) == (PLACE, U64 - 1)


class Arm:
    """Runs the few instructions of aarch64 that a detour is made of."""

    def __init__(self, code: bytes, registers: Registers, call: Callable[["Arm"], int]) -> None:
        self.code = code
        self.x = list(registers[:31])
        self.pc = PLACE
        self.call = call

    def run(self) -> None:
        while PLACE <= self.pc < PLACE + len(self.code):
            self.step(struct.unpack_from("<I", self.code, self.pc - PLACE)[0])

    def step(self, word: int) -> None:
        target, here = word & 31, self.pc
        self.pc += 4
        if word == 0xD4000001:  # svc #0
            self.x[0] = self.call(self)
        elif word == 0x92800000:  # mov x0, #-1
            self.x[0] = U64 - 1
        elif word & 0xFFE00000 == 0xD2800000:  # movz
            self.x[target] = word >> 5 & 0xFFFF
        elif word & 0xFF000000 == 0x58000000:  # ldr, from an address relative to this one
            at = here - PLACE + 4 * (word >> 5 & 0x7FFFF)
            (self.x[target],) = struct.unpack_from("<Q", self.code, at)
        elif word & 0x9F000000 == 0x10000000:  # adr
            self.x[target] = here + ((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3)
        elif word >> 26 == 5:  # b
            offset = word & 0x03FFFFFF
            self.pc = here + 4 * (offset - (1 << 26) if offset >> 25 else offset)
        elif word & 0xFFFFFC1F == 0xD65F0000:  # ret
            self.pc = self.x[word >> 5 & 31]
        else:
            pytest.fail(f"instruction {word:#x}")


@pytest.mark.parametrize(
    ("pc", "changed"), [(PLACE + 0x10_0000, []), (PLACE - 0x10_0000, []), (0x7FFF_0000_0000, [17])]
)
def test_a_detour_on_aarch64_makes_its_calls_and_leaves_all_as_it_was(
    pc: int, changed: list[int]
) -> None:
    calls = []

    def call(arm: Arm) -> int:
        calls.append((arm.x[8], arm.x[0]))
        if arm.x[8] == 135:
            assert struct.unpack_from("<Q", arm.code, arm.x[1] - PLACE) == (MASK,)
            assert arm.x[2:4] == [0, 8]
        return 9 if len(calls) == 1 else 0

    registers = (*range(5000, 5031), 0x8000, pc, 0)
    arm = Arm(Aarch64().detour(PLACE, registers, MASK), registers, call)
    arm.run()
    # close(-1), which becomes userfaultfd; close(its result); rt_sigprocmask(SIG_SETMASK, ...)
    assert calls == [(57, U64 - 1), (57, 9), (135, 2)]
    assert arm.pc == pc
    assert [n for n in range(31) if arm.x[n] != registers[n]] == changed
