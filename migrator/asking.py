"""Past the point of no return: the destination is asked to run the container, until it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from criu_rpc.logger import Logger
from migrator.destination import DestinationAgent
from migrator.errors import OutcomeUnknown
from migrator.plan import Plan

logger = Logger(__name__)


def ask_to_run(
    plan: Plan,
    migration: str,
    agent: DestinationAgent,
    held: dict[str, Any],
    add_phases: Callable[[list[list[Any]]], None],
) -> tuple[str, DestinationAgent]:
    """Commit: "running" or "dead", and the agent that said so, which may be a new one.

    Raises OutcomeUnknown if nobody says within plan.commit_wait_s.
    """
    try:
        running = agent.commit(held, timeout_s=plan.commit_wait_s)
    except Exception as error:  # noqa: BLE001 - whatever it is, only an answer may end this
        logger.warning("commit: %s", error)
        return _ask_again(plan, migration, agent, error)
    with suppress(ValueError, TypeError, OverflowError):
        add_phases(running.phases)
    return "running", agent


def _ask_again(
    plan: Plan, migration: str, agent: DestinationAgent, error: Exception
) -> tuple[str, DestinationAgent]:
    deadline, machine = time.monotonic() + plan.commit_wait_s, agent.machine
    while True:
        try:
            agent.close()
            agent = DestinationAgent.open(plan.destination)
            agent.ensure_is(machine)
            return agent.resolve(migration=migration, container=plan.container), agent
        except Exception as again:  # noqa: BLE001 - as above
            error = again
        if time.monotonic() > deadline:
            raise OutcomeUnknown(plan.container, agent.host, str(error))
        time.sleep(1.0)
