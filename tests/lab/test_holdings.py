"""Whatever a container holds beside memory moves, and no option has to be given for it."""

from __future__ import annotations

import pytest

from tests.lab import holdings
from tests.lab.churning import churning
from tests.lab.hosts import NEEDED, TwoHosts

pytestmark = NEEDED

KINDS = [kind.__name__ for kind in holdings.KINDS]


@pytest.mark.parametrize(("mode", "moves"), [("hybrid", 2), ("post-copy", 1), ("cold", 1)])
def test_all_of_it_is_there(two_hosts: TwoHosts, mode: str, moves: int) -> None:
    with churning(two_hosts, *KINDS, program=holdings) as held:
        for _ in range(moves):
            held.migrate("--mode", mode)
