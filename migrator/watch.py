"""What a crash of the source's side is resolved by: a journal, and a guardian who acts by it."""

from __future__ import annotations

from typing import Any

from migrator.errors import AtWork, UsageProblem
from migrator.guardian import Guardian
from migrator.journal import SOURCE, open_journal
from migrator.plan import Plan


class Watch:
    """Over one migration, from its first step to `end`."""

    def __init__(self, plan: Plan, **begin: Any) -> None:
        """Take the journal, and note how the migration began.

        Raises UsageProblem when another one is at work, or unfinished.
        """
        try:
            self.journal = open_journal(plan.root, plan.container, SOURCE)
        except AtWork as error:
            raise unfinished(plan.container) from error
        try:
            if self.journal.entries:
                raise unfinished(plan.container)
            self._begin(plan, begin)
        except BaseException:
            self.journal.close()
            raise

    def _begin(self, plan: Plan, begin: dict[str, Any]) -> None:
        try:
            self.journal.write("begin", **begin)
            self._guardian = Guardian(plan.root, plan.container)
        except BaseException:
            self.journal.remove()  # nothing has begun
            raise

    def end(self, *, done: bool, forget: bool) -> None:
        """Let go; without *done* the guardian goes on where we stopped."""
        if forget:
            self.journal.remove()
        self.journal.close()
        if done:
            self._guardian.release()
        else:
            self._guardian.hand_over()


def unfinished(container: str) -> UsageProblem:
    """Why a migration cannot begin."""
    return UsageProblem(
        f"a migration of {container} is at work or unfinished: wait for it, or run "
        f"migrator resolve {container}"
    )
