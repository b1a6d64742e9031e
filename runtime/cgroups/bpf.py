"""Device rules on cgroup v2: a small eBPF program that the kernel asks at every open and mknod.

Assembled here, instruction by instruction: bpf(2), linux/bpf.h, kernel Documentation/bpf/
standardization/instruction-set.rst and bpf/prog_cgroup_device (BPF_PROG_TYPE_CGROUP_DEVICE).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from runtime.cgroups import tree
from runtime.cgroups.devices import ANY, Rule
from runtime.errors import CgroupError

# linux/bpf.h: enum bpf_cmd, bpf_prog_type, bpf_attach_type, flags of BPF_PROG_ATTACH
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2
# linux/bpf.h: BPF_DEVCG_ACC_*, BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}
_DEVICE = {"b": 1, "c": 2}
# Operation codes: class, size and source in one byte
_LDX_WORD, _MOV, _AND, _SHIFT_RIGHT = 0x61, 0xB7, 0x57, 0x77
_MOV_REGISTER, _JUMP_EQUAL, _JUMP_NOT_EQUAL, _JUMP_SET, _EXIT = 0xBF, 0x15, 0x55, 0x45, 0x95

_RESULT, _CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR = range(6)

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_ATTRIBUTES_BYTES = 128
_MAX_PROGRAMS = 64


class Instruction(NamedTuple):
    """struct bpf_insn; a *target* is a label, resolved to an offset by `_link`."""

    code: int
    register: int = 0
    source: int = 0
    offset: int = 0
    immediate: int = 0
    target: str = ""

    def encode(self) -> bytes:
        registers = self.source << 4 | self.register
        return struct.pack("<BBhi", self.code, registers, self.offset, self.immediate)


def assemble(rules: list[Rule]) -> bytes:
    """The program for *rules*: for each kind of access wanted, the last rule that fits decides.

    It walks the rules from the last to the first and keeps in one register what is still undecided:
    a rule that denies any of it ends with 0, one that allows takes its share away, and when nothing
    is left the answer is 1. What no rule speaks of is denied.
    """
    labels: dict[str, int] = {}
    code = [
        # struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor
        Instruction(_LDX_WORD, _TYPE, _CONTEXT, 0),
        Instruction(_MOV_REGISTER, _WANTED, _TYPE),
        Instruction(_SHIFT_RIGHT, _WANTED, immediate=16),
        Instruction(_AND, _TYPE, immediate=0xFFFF),
        Instruction(_LDX_WORD, _MAJOR, _CONTEXT, 4),
        Instruction(_LDX_WORD, _MINOR, _CONTEXT, 8),
    ]
    for index, rule in enumerate(reversed(rules)):
        code += _check(rule, f"after {index}")
        labels[f"after {index}"] = len(code)
    for label, answer in (("deny", 0), ("allow", 1)):
        # The verifier rejects code that cannot be reached.
        if label == "deny" or any(rule.allow for rule in rules):
            labels[label] = len(code)
            code += [Instruction(_MOV, _RESULT, immediate=answer), Instruction(_EXIT)]
    return b"".join(each.encode() for each in _link(code, labels))


def _check(rule: Rule, after: str) -> Iterator[Instruction]:
    if rule.type != "a":
        kind = _DEVICE[rule.type]
        yield Instruction(_JUMP_NOT_EQUAL, _TYPE, immediate=kind, target=after)
    for register, number in ((_MAJOR, rule.major), (_MINOR, rule.minor)):
        if number != ANY:
            yield Instruction(_JUMP_NOT_EQUAL, register, immediate=number, target=after)
    bits = sum(_ACCESS[letter] for letter in set(rule.access))
    if rule.allow:
        yield Instruction(_AND, _WANTED, immediate=~bits)
        yield Instruction(_JUMP_EQUAL, _WANTED, immediate=0, target="allow")
    else:
        yield Instruction(_JUMP_SET, _WANTED, immediate=bits, target="deny")


def _link(code: list[Instruction], labels: dict[str, int]) -> Iterator[Instruction]:
    for index, each in enumerate(code):
        # An offset counts from the next instruction.
        yield each._replace(offset=labels[each.target] - index - 1) if each.target else each


def set_device_rules(directory: Path, rules: list[Rule]) -> None:
    """Let *rules* decide over devices in the cgroup *directory*, in place of former ones of ours.

    While both programs are attached, both must allow: nothing is allowed too early.
    """
    try:
        with tree.opened(directory) as cgroup_fd:
            former = _attached(cgroup_fd)
            with _loaded(assemble(rules)) as program_fd:
                _attach(cgroup_fd, program_fd)
            for program_id in former:
                _detach(cgroup_fd, program_id)
    except OSError as exc:
        raise CgroupError(directory, f"device rules cannot be set: {exc.strerror}") from exc


@contextmanager
def _loaded(program: bytes) -> Iterator[int]:
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"Apache")
    fd = _bpf(
        _PROG_LOAD,
        struct.pack(
            "=IIQQ",
            _TYPE_CGROUP_DEVICE,
            len(program) // 8,
            ctypes.addressof(code),
            ctypes.addressof(licence),
        ),
    )
    try:
        yield fd
    finally:
        os.close(fd)


def _attach(cgroup_fd: int, program_fd: int) -> None:
    attributes = (cgroup_fd, program_fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
    _bpf(_PROG_ATTACH, struct.pack("=IIII", *attributes))


def _detach(cgroup_fd: int, program_id: int) -> None:
    program_fd = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0))
    try:
        attributes = (cgroup_fd, program_fd, _ATTACH_CGROUP_DEVICE, 0)
        _bpf(_PROG_DETACH, struct.pack("=IIII", *attributes))
    finally:
        os.close(program_fd)


def _attached(cgroup_fd: int) -> list[int]:
    """The ids of the device programs of this cgroup itself, those of its ancestors left out."""
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    query = (cgroup_fd, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids))
    _, answer = _bpf_call(_PROG_QUERY, struct.pack("=IIIIQI", *query))
    (count,) = struct.unpack_from("=I", answer, struct.calcsize("=IIIIQ"))
    return list(ids[:count])


def _bpf(command: int, attributes: bytes) -> int:
    return _bpf_call(command, attributes)[0]


def _bpf_call(command: int, attributes: bytes) -> tuple[int, bytes]:
    """bpf(2): the result, and the attributes as the kernel left them."""
    if (call := _SYSCALL.get(os.uname().machine)) is None:
        raise OSError(errno.ENOSYS, f"bpf: not known for {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_BYTES)
    result: int = libc.syscall(call, command, buffer, len(buffer))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf: {os.strerror(number)}")
    return result, buffer.raw
