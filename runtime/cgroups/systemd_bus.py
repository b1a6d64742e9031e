"""One conversation with systemd over D-Bus: make, change, ask about and stop a unit.

org.freedesktop.systemd1(5). A job is over when systemd says so by a signal, for which it wants to
be asked before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Self

from jeepney import (
    DBusAddress,
    HeaderFields,
    MatchRule,
    Message,
    MessageType,
    message_bus,
    new_method_call,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from runtime.cgroups.unit_properties import Property
from runtime.cgroups.units import SLICE, Unit
from runtime.errors import CgroupError

_NAME, _PATH, _INTERFACE = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
_MANAGER = DBusAddress(_PATH, bus_name=_NAME, interface=_INTERFACE)
_TIMEOUT_S = 30.0
_EXISTS, _GONE = f"{_NAME}.UnitExists", f"{_NAME}.NoSuchUnit"


class Refused(Exception):
    """systemd, or the bus, answered with an error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name


class Bus:
    """A connection to the bus of the system, or of the user when we are not root.

    Every method raises CgroupError, which names the unit.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        kind = "SYSTEM" if os.geteuid() == 0 else "SESSION"
        try:
            self._connection: DBusConnection = open_dbus_connection(
                bus=kind, auth_timeout=_TIMEOUT_S
            )
        except (OSError, KeyError, RuntimeError) as exc:
            why = f"no {kind.lower()} bus to systemd ({exc}): use the cgroupfs driver instead"
            raise CgroupError(unit.name, why) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def start(self, properties: Iterable[Property]) -> None:
        """Make the unit, in place of one of that name that has failed; it is there on return."""
        no_others: list[Any] = []
        arguments = (self._unit.name, "replace", list(properties), no_others)
        for tries_left in (1, 0):
            try:
                return self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)
            except Refused as exc:
                if exc.name != _EXISTS or not tries_left:
                    why = f"systemd does not start it: {exc}"
                    raise CgroupError(self._unit.name, why) from exc
            self._forget()

    def set(self, properties: Iterable[Property]) -> None:
        """Change properties of the unit until it ends."""
        arguments = (self._unit.name, True, list(properties))
        try:
            self._call(_MANAGER, "SetUnitProperties", "sba(sv)", arguments)
        except Refused as exc:
            raise CgroupError(self._unit.name, f"systemd refuses a limit: {exc}") from exc

    def get(self, names: Iterable[str]) -> list[Property]:
        """Properties of the unit as they are now."""
        try:
            (path,) = self._call(_MANAGER, "GetUnit", "s", (self._unit.name,))
            return [(name, self._property(path, name)) for name in names]
        except Refused as exc:
            raise CgroupError(self._unit.name, f"systemd does not tell of it: {exc}") from exc

    def own_cgroup(self) -> str:
        """The cgroup that this systemd manages; "" when it is all of them."""
        try:
            _, value = self._property(_PATH, "ControlGroup", _INTERFACE)
        except Refused as exc:
            raise CgroupError(self._unit.name, f"systemd does not tell its cgroup: {exc}") from exc
        return str(value).rstrip("/").removesuffix("/init.scope")

    def stop(self) -> None:
        """Stop the unit, and have it forgotten if it had failed; none is no fault."""
        try:
            self._job("StopUnit", "ss", (self._unit.name, "replace"))
        except Refused as exc:
            if exc.name != _GONE:
                raise CgroupError(self._unit.name, f"systemd does not stop it: {exc}") from exc
        self._forget()

    def _forget(self) -> None:
        try:
            self._call(_MANAGER, "ResetFailedUnit", "s", (self._unit.name,))
        except Refused as exc:
            if exc.name != _GONE:
                raise CgroupError(self._unit.name, f"systemd does not reset it: {exc}") from exc

    def _job(self, method: str, signature: str, arguments: tuple[Any, ...]) -> None:
        """Call a method that starts a job, and wait for its end."""
        with self._connection.filter(self._end_of_jobs, bufsize=1024) as ended:
            (job,) = self._call(_MANAGER, method, signature, arguments)
            while True:
                signal = self._received(ended)
                if signal.body[1] == job:
                    break
        if signal.body[3] not in ("done", "skipped"):
            raise Refused(f"{_NAME}.JobFailed", f"its job ended as {signal.body[3]!r}")

    @cached_property
    def _end_of_jobs(self) -> MatchRule:
        """What signals of it look like; from now on they come."""
        # By the name that signals bear: others could send the like.
        (owner,) = self._answer(message_bus.GetNameOwner(_NAME))
        rule = MatchRule(
            type="signal", sender=owner, interface=_INTERFACE, member="JobRemoved", path=_PATH
        )
        self._answer(message_bus.AddMatch(rule))
        self._call(_MANAGER, "Subscribe", "", ())
        return rule

    def _received(self, queue: Any) -> Message:
        try:
            return self._connection.recv_until_filtered(queue, timeout=_TIMEOUT_S)
        except TimeoutError as exc:
            raise CgroupError(self._unit.name, f"systemd took {_TIMEOUT_S:g} s: {exc}") from exc

    def _property(self, path: str, name: str, interface: str = "") -> tuple[str, Any]:
        kind = "Slice" if self._unit.name.endswith(SLICE) else "Scope"
        there = DBusAddress(path, bus_name=_NAME, interface="org.freedesktop.DBus.Properties")
        asked = (interface or f"{_NAME}.{kind}", name)
        (value,) = self._call(there, "Get", "ss", asked)
        return value[0], value[1]

    def _call(
        self, address: DBusAddress, method: str, signature: str, arguments: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        return self._answer(new_method_call(address, method, signature, arguments))

    def _answer(self, message: Message) -> tuple[Any, ...]:
        try:
            reply = self._connection.send_and_get_reply(message, timeout=_TIMEOUT_S)
        except (OSError, TimeoutError) as exc:
            raise CgroupError(self._unit.name, f"systemd does not answer: {exc}") from exc
        if reply.header.message_type == MessageType.error:
            fields: Mapping[Any, Any] = reply.header.fields
            text = reply.body[0] if reply.body else ""
            raise Refused(str(fields[HeaderFields.error_name]), str(text))
        body: tuple[Any, ...] = reply.body
        return body
