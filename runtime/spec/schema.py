"""Kinds of JSON values, from which the table of a document's fields is made (fields.py).

A kind reads one value: it returns what the program works with, or notes every fault with its JSON
path and what was expected. Null counts as absent, as OCI's own readers have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from criu_rpc.logger import Logger
from runtime.errors import Fault

logger = Logger(__name__)

_NAMES = {bool: "a boolean", int: "a number", float: "a number with a fraction", str: "a string"}
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Faults:
    """Every fault found so far, in the order of the document."""

    def __init__(self) -> None:
        self.all: list[Fault] = []
        self.invalid = 0

    def wrong(self, path: str, why: str) -> None:
        """Note that the value at *path* is malformed."""
        self.all.append(Fault(path, why))
        self.invalid += 1

    def unsupported(self, path: str, why: str) -> None:
        """Note that the value at *path* is sound, and not carried out by this runtime."""
        self.all.append(Fault(path, why))


class Kind:
    """What a value must be; the base accepts anything."""

    #: stands before every fault: what the value is called by those who search for the message
    prefix = ""

    def spelled(self, value: Any) -> Any:
        """*value* with the keys of objects in the case of the specification, and none that is null.

        Go's JSON reader, and so every other runtime's, takes them in any case, and reads a key that
        comes twice as one object.
        """
        return value

    def read(self, value: Any, path: str, faults: Faults) -> Any:
        """Return the value for the program, None after noting a fault."""
        return value


class Text(Kind):
    """A string that can be given to the kernel: without NUL, and encodable."""

    def __init__(self, expected: str = "a string", *, pattern: str = "") -> None:
        self.expected = expected
        self._pattern = re.compile(pattern, re.ASCII | re.DOTALL)
        self._any = not pattern

    def read(self, value: Any, path: str, faults: Faults) -> str | None:
        if not isinstance(value, str):
            faults.wrong(path, f"expected {self.expected}, found {describe(value)}")
        elif "\0" in value or not _encodable(value):
            faults.wrong(path, "has a character that cannot be passed to the kernel")
        elif not self._any and not self._pattern.fullmatch(value):
            faults.wrong(path, f"expected {self.expected}, found {describe(value)}")
        else:
            return value
        return None


class Choice(Kind):
    """One of a few strings; *called* as the messages of runc name it."""

    def __init__(self, *choices: str, called: str = "") -> None:
        self.choices = choices
        self.prefix = f"invalid {called}: " if called else ""

    def read(self, value: Any, path: str, faults: Faults) -> str | None:
        if isinstance(value, str) and value in self.choices:
            return value
        names = ", ".join(choice for choice in self.choices if choice)
        faults.wrong(path, f"{self.prefix}expected one of {names}, found {describe(value)}")
        return None


class Integer(Kind):
    """A number without fraction in a closed range."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def read(self, value: Any, path: str, faults: Faults) -> int | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and self._low <= value <= self._high:
            return int(value)
        faults.wrong(
            path,
            f"expected a whole number from {self._low} to {self._high}, found {describe(value)}",
        )
        return None


class Boolean(Kind):
    """True or false."""

    def read(self, value: Any, path: str, faults: Faults) -> bool | None:
        if isinstance(value, bool):
            return value
        faults.wrong(path, f"expected true or false, found {describe(value)}")
        return None


class Numbers(Kind):
    """A list of numbers and ranges as the kernel writes it, "0-3,7": read as a sorted tuple."""

    def __init__(self, highest: int, *, called: str) -> None:
        self._highest = highest
        self.prefix = f"invalid {called}: "

    def read(self, value: Any, path: str, faults: Faults) -> tuple[int, ...] | None:
        found = set[int]()
        for part in value.split(",") if isinstance(value, str) and value.strip() else ():
            first, dash, last = (each.strip() for each in part.partition("-"))
            low, high = _number(first), _number(last if dash else first)
            if not -1 < low <= high <= self._highest:
                why = f"expected a list as 0-3,7 of numbers up to {self._highest}"
                faults.wrong(path, f"{self.prefix}{why}, found {describe(value)}")
                return None
            found.update(range(low, high + 1))
        if isinstance(value, str):
            return tuple(sorted(found))
        faults.wrong(path, f"{self.prefix}expected a list as 0-3,7, found {describe(value)}")
        return None


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else -1


class Array(Kind):
    """A list of values of one kind."""

    def __init__(self, item: Kind, *, least: int = 0) -> None:
        self.item = item
        self._least = least

    def spelled(self, value: Any) -> Any:
        return [self.item.spelled(each) for each in value] if isinstance(value, list) else value

    def read(self, value: Any, path: str, faults: Faults) -> tuple[Any, ...] | None:
        if not isinstance(value, list):
            faults.wrong(path, f"expected an array, found {describe(value)}")
        elif len(value) < self._least:
            faults.wrong(path, f"expected at least {self._least} item")
        else:
            return tuple(self.item.read(v, f"{path}[{i}]", faults) for i, v in enumerate(value))
        return None


class Dictionary(Kind):
    """An object whose keys are names that the writer chose, and whose values are of one kind."""

    def __init__(self, item: Kind) -> None:
        self.item = item

    def spelled(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: self.item.spelled(each) for key, each in value.items()}

    def read(self, value: Any, path: str, faults: Faults) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            faults.wrong(path, f"expected an object, found {describe(value)}")
            return None
        if "" in value:
            faults.wrong(path, "has an empty key")
        return {key: self.item.read(v, child(path, key), faults) for key, v in value.items()}


class Record(Kind):
    """An object with known fields, made into a *make*; a field it does not know is no fault.

    make: called with the fields in snake_case, or `dict`, which keeps their names.
    OCI runtime-spec, "Extensibility": unknown properties may be logged and must be ignored.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        fields: Mapping[str, Kind],
        *,
        required: Sequence[str] = (),
    ) -> None:
        self.fields = fields
        self.required = required
        self.make = make
        self._names = {key.lower(): key for key in fields}

    def spelled(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        result: dict[str, Any] = {}
        for key, each in value.items():
            name = str(key if key in self.fields else self._names.get(key.lower(), key))
            if each is None:
                result.pop(name, None)
                continue
            read = self.fields[name].spelled(each) if name in self.fields else each
            former = result.get(name)
            if isinstance(former, dict) and isinstance(read, dict):
                read = {**former, **read}
            result[name] = read
        return result

    def read(self, value: Any, path: str, faults: Faults) -> Any:
        if not isinstance(value, dict):
            faults.wrong(path, f"expected an object, found {describe(value)}")
            return None
        before = faults.invalid
        present = {key: each for key, each in value.items() if each is not None}
        for key in self.required:
            if key not in present:
                faults.wrong(child(path, key), f"{self.fields[key].prefix}missing, and required")
        read = {key: self._field(key, each, path, faults) for key, each in present.items()}
        if faults.invalid > before:
            return None
        return self.make(**{self.name_of(k): v for k, v in read.items() if self.is_kept(k)})

    def _field(self, key: str, value: Any, path: str, faults: Faults) -> Any:
        if kind := self.fields.get(key):
            return kind.read(value, child(path, key), faults)
        logger.debug("field %s is not of the specification: ignored", child(path, key))
        return None

    def name_of(self, key: str) -> str:
        """The name under which *make* gets the field *key*."""
        return key if self.make is dict else snake_case(key)

    def is_kept(self, key: str) -> bool:
        """Whether *make* gets the field *key*."""
        return key in self.fields and not isinstance(self.fields[key], Refused)


class Refused(Kind):
    """A field of the specification that is not carried out: only its harmless values pass."""

    def __init__(self, why: str = "not supported", *, harmless: Sequence[Any] = ()) -> None:
        self.why = why
        self._harmless = [False, "", [], {}, *harmless]

    def read(self, value: Any, path: str, faults: Faults) -> None:
        if not any(value == each and type(value) is type(each) for each in self._harmless):
            faults.unsupported(path, self.why)


class Entry(NamedTuple):
    """One line of the table of fields: for documentation and for the tests."""

    path: str
    kind: Kind


def entries(kind: Kind, path: str = "") -> Iterator[Entry]:
    """Every field below *kind* that holds a value itself, in the order of the table."""
    if isinstance(kind, Record):
        for key, each in kind.fields.items():
            yield from entries(each, child(path, key))
    elif isinstance(kind, Array) and isinstance(kind.item, Record):
        yield from entries(kind.item, f"{path}[]")
    elif isinstance(kind, Dictionary) and isinstance(kind.item, Record):
        yield from entries(kind.item, f"{path}.*")
    else:
        yield Entry(path, kind)


def child(path: str, key: str) -> str:
    """The JSON path of the field *key* of the object at *path*."""
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{_shortened(repr(key))}]"
    return f"{path}.{key}" if path else key


def snake_case(key: str) -> str:
    """oomScoreAdj -> oom_score_adj, execCPUAffinity -> exec_cpu_affinity."""
    return _WORD_START.sub("_", key).lower()


def describe(value: Any) -> str:
    """What stands in the document, short, for an error message."""
    if value is None:
        return "null"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    name = _NAMES[type(value)]
    return f"{name}: {_shortened(str(value).lower() if isinstance(value, bool) else repr(value))}"


def _shortened(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
