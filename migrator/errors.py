"""Errors of a migration, each with the exit code of the command that it ends.

    MigrationError                1   nothing was moved; the container runs as before
    +-- ProtocolError             1   the other side speaks something else
    +-- UsageProblem              1   the request itself cannot be carried out
    |   +-- AtWork                6   another process is at work on the same migration
    +-- PreflightFailed           3   one side cannot do it; every reason is listed
    +-- DestinationUnreachable    4   no connection, wrong host key, no key accepted, no agent there
    +-- PeerLost                  5   the connection ended in the middle
    +-- RolledBack                5   failed before the commit; the source runs on
    +-- OutcomeUnknown            6   committed, no answer: the source stays frozen until `migrator
    resolve`
    +-- StillNeeded               6   runs there, with pages that are frozen here; they wait
    +-- SourceLeftBehind          7   moved, but something could not be removed at the source
    +-- NotReported               7   moved, but its report could not be written
    +-- CopyLost                  8   ran there, and ended before it had all of its pages
    +-- PagesLost                 8   the same, with nothing left at the source

Errors of one container on one host are runtime.errors', of CRIU criu_rpc.errors'.
"""

from __future__ import annotations


class MigrationError(Exception):
    """Root of all. str() is one line: what failed, and the remedy."""

    exit_code = 1

    def __str__(self) -> str:
        # some of it is a peer's: its control characters are not for our terminal
        return "".join(c if c.isprintable() else " " for c in super().__str__())


class UsageProblem(MigrationError):
    """The request names something that is not there or that cannot be."""


class AtWork(UsageProblem):
    """Somebody else holds the journal of a migration: it is to be asked for again."""

    exit_code = 6

    def __init__(self, container: str) -> None:
        super().__init__(f"a migration of {container} is at work on this host: wait for it to end")


class ProtocolError(MigrationError):
    """The peer sent something that this version does not understand."""

    def __init__(self, peer: str, what: str) -> None:
        super().__init__(
            f"{peer} sent {what}: is the same version of migrator installed on both hosts?"
        )


class PreflightFailed(MigrationError):
    """What stands in the way, on both hosts; nothing was touched."""

    exit_code = 3

    def __init__(self, container: str, destination: str, reasons: list[str]) -> None:
        self.reasons = list(reasons)
        listed = "; ".join(self.reasons)
        super().__init__(f"{container} cannot move to {destination}: {listed}")


class DestinationUnreachable(MigrationError):
    """No agent could be started there; nothing was touched."""

    exit_code = 4


class PeerLost(MigrationError):
    """The connection to *peer* ended."""

    exit_code = 5

    def __init__(self, peer: str, why: str) -> None:
        super().__init__(f"lost {peer}: {why}")


class RolledBack(MigrationError):
    """The migration failed before its commit; the source was resumed, the destination discarded."""

    exit_code = 5

    def __init__(self, container: str, phase: str, why: str, fate: str) -> None:
        self.phase = phase
        super().__init__(f"migration of {container} failed while {phase}: {why}; it {fate}")


class OutcomeUnknown(MigrationError):
    """Committed, but the destination gave no answer; the source stays frozen, so never two run."""

    exit_code = 6

    def __init__(self, container: str, destination: str, why: str) -> None:
        super().__init__(
            f"{destination} did not say whether {container} runs there ({why}): it stays frozen "
            f"here until it can be asked; at once with: migrator resolve {container}"
        )


class SourceLeftBehind(MigrationError):
    """The container runs at the destination; what is named could not be removed here."""

    exit_code = 7

    def __init__(self, container: str, why: str) -> None:
        super().__init__(f"{container} runs at the destination, but cleaning up here failed: {why}")


class NotReported(MigrationError):
    """The container runs at the destination; nobody could be told how that went."""

    exit_code = 7

    def __init__(self, container: str, destination: str, why: str) -> None:
        super().__init__(f"{container} runs at {destination}; writing its report failed: {why}")


class StillNeeded(MigrationError):
    """Post-copy: the container runs at the destination, and waits for pages that are here."""

    exit_code = 6

    def __init__(self, container: str, destination: str, why: str) -> None:
        super().__init__(
            f"{container} runs at {destination} and lacks pages, which are frozen here ({why}): "
            f"they go on as soon as it can be reached; at once with: migrator resolve {container}"
        )


class CopyLost(MigrationError):
    """Post-copy: the container has run at the destination, and ended there for want of its pages.

    What is frozen here is whole, and of the moment of the freeze.
    """

    exit_code = 8

    def __init__(self, container: str, destination: str, why: str) -> None:
        self.why = why
        super().__init__(
            f"{container} has ended at {destination} ({why}); what is frozen here is as it was at "
            f"the freeze, and what it has done since is lost: run migrator resolve --force-source "
            f"{container} to go on from there, or migrator delete --force {container}"
        )


class PagesLost(MigrationError):
    """The container runs nowhere: the destination could not give it all of its pages."""

    exit_code = 8

    def __init__(self, container: str, destination: str, why: str) -> None:
        self.why = why
        super().__init__(
            f"{container} has ended at {destination}, where its pages could not be served ({why}); "
            "it was gone here by then"
        )
