"""From a checked linux.seccomp to the program that init gives to the kernel.

As with runc: a rule whose action is the default is left out; a call that libseccomp does not know
is skipped, since profiles name those of other kernels and machines; conditions that share an
argument are rules of their own, of which one has to hold. And a call with a higher number than any
that the profile names fails with ENOSYS where the default would forbid it: it is newer than the
profile, and libc only goes on to an older call after ENOSYS.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criu_rpc.logger import Logger
from runtime.errors import InvalidSpec, SetupFailed, UnsupportedField
from runtime.seccomp.library import (
    Condition,
    Filter,
    LibraryMissing,
    NewNumbers,
    new_numbers,
    number_of,
)
from runtime.seccomp.words import ACTIONS, FLAGS, OPERATORS, WITH_ERRNO, listens

if TYPE_CHECKING:
    from runtime.process.plan import SeccompPlan

logger = Logger(__name__)

_FIELD = "linux.seccomp"
_NEW_LISTENER = 1 << 3
_BY_DEFAULT = ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",)
#: the process that comes under the filter has one thread, so it has no meaning
_FOR_THREADS = "SECCOMP_FILTER_FLAG_TSYNC"
#: from how many rules on a search by halves is worth its instructions
_MANY_RULES = 8
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
#: of which an unknown call is not let pass
_FORBIDDING = ("SCMP_ACT_KILL", "SCMP_ACT_ERRNO", "SCMP_ACT_TRAP")

# struct sock_filter; linux/bpf_common.h
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _IF_EQUAL, _IF_ABOVE, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
# offsets in struct seccomp_data
_NUMBER, _ARCHITECTURE = 0, 4


def plan(seccomp: Mapping[str, Any], path: Path) -> SeccompPlan:
    """What init is to do for *seccomp*, of the config.json at *path*.

    Raises UnsupportedField where libseccomp is missing, InvalidSpec for what it does not take.
    """
    try:
        program = _program(seccomp, path)
        call = number_of("seccomp")
    except LibraryMissing as exc:
        raise UnsupportedField(path, [(_FIELD, str(exc))]) from None
    except OSError as exc:
        raise SetupFailed("making the seccomp filter", str(exc.strerror)) from exc
    assert call is not None
    flags = _flags(seccomp)
    logger.debug("seccomp filter flags: %d", flags)
    return {
        "call": call,
        "program": program,
        "flags": flags,
        "listener": listens(seccomp),
        "traceable": os.geteuid() != 0,
    }


def _flags(seccomp: Mapping[str, Any]) -> int:
    """As runc has them: without a list the mitigation that only costs time is left out."""
    flags = _NEW_LISTENER if listens(seccomp) else 0
    for name in seccomp.get("flags", _BY_DEFAULT):
        flags |= FLAGS[name]
    return flags & ~FLAGS[_FOR_THREADS]


def _program(seccomp: Mapping[str, Any], path: Path) -> bytes:
    architectures = [name[10:].lower() for name in seccomp.get("architectures", ())]
    default = _action(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    rules = seccomp.get("syscalls", ())
    with Filter(default) as making:
        for index, name in enumerate(architectures):
            with _told(path, f"{_FIELD}.architectures[{index}]"):
                making.add_architecture(name)
        if len(rules) > _MANY_RULES:
            making.use_binary_tree()
        for index, rule in enumerate(rules):
            with _told(path, f"{_FIELD}.syscalls[{index}]"):
                _add(making, rule, default)
        program = making.export()
    if seccomp["defaultAction"].startswith(_FORBIDDING) and default & 0xFFFF != errno.ENOSYS:
        names = {name for rule in rules for name in rule["names"]}
        unknown = (new_numbers(each, names) for each in (None, *architectures))
        program = not_there(filter(None, unknown)) + program
    if (size := len(program) // _INSTRUCTION.size) > _MAX_INSTRUCTIONS:
        why = f"makes a filter of {size} instructions, and the kernel takes {_MAX_INSTRUCTIONS}"
        raise InvalidSpec(path, [(f"{_FIELD}.syscalls", why)])
    return program


def _action(name: str, errno_ret: int | None) -> int:
    if name not in WITH_ERRNO:
        return ACTIONS[name]
    return ACTIONS[name] | (errno.EPERM if errno_ret is None else errno_ret)


def _add(making: Filter, rule: Mapping[str, Any], default: int) -> None:
    action = _action(rule["action"], rule.get("errnoRet"))
    if action == default:
        return
    groups = list(_groups(rule.get("args", ())))
    for name in rule["names"]:
        number = number_of(name)
        if number is None:
            logger.debug("libseccomp does not know the system call %s: rule skipped", name)
            continue
        for conditions in groups:
            making.add_rule(action, number, conditions)


def _groups(args: tuple[Mapping[str, Any], ...]) -> Iterator[list[Condition]]:
    """Conditions that have to hold together: libseccomp takes one for each argument."""
    conditions = [
        Condition(each["index"], OPERATORS[each["op"]], each["value"], each.get("valueTwo", 0))
        for each in args
    ]
    if len({each.argument for each in conditions}) == len(conditions):
        yield conditions
    else:
        yield from ([each] for each in conditions)


def not_there(unknown: Iterable[NewNumbers]) -> bytes:
    """Instructions to stand before a filter: these numbers fail with ENOSYS, all else goes on."""
    result = ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS
    return b"".join(
        _INSTRUCTION.pack(*each)
        for architecture, low, high in dict.fromkeys(unknown)
        for each in (
            (_LOAD, 0, 0, _ARCHITECTURE),
            (_IF_EQUAL, 0, 4, architecture),
            (_LOAD, 0, 0, _NUMBER),
            (_IF_AT_LEAST, 0, 2, low),
            (_IF_ABOVE, 1, 0, high),
            (_RETURN, 0, 0, result),
        )
    )


@contextmanager
def _told(path: Path, field: str) -> Iterator[None]:
    """What libseccomp does not take is a fault of the spec, at that field."""
    try:
        yield
    except OSError as exc:
        why = f"libseccomp does not take it: {exc.strerror}"
        raise InvalidSpec(path, [(field, why)]) from exc
