"""Two hosts and a client, one lab for the whole session."""

from collections.abc import Iterator

import pytest

from migrator.lab import lab as labs
from tests import leftovers
from tests.lab.hosts import TwoHosts


@pytest.fixture(scope="session")
def lab() -> Iterator[labs.Lab]:
    """A lab of this session's own, with cables as fast as the machine."""
    with labs.up(leftovers.own("lab"), bandwidth="off", owned=True) as up:
        yield up


@pytest.fixture
def two_hosts(lab: labs.Lab) -> Iterator[TwoHosts]:
    """The hosts of the lab; what a test leaves in them is removed when it ends."""
    hosts = TwoHosts(lab)
    yield hosts
    for host in lab.hosts:
        script = (
            'for id in $(migrator list -q); do migrator delete --force "$id"; done; rm -rf /srv/*'
        )
        host.run("sh", "-c", script, check=False)
