"""The lab of two hosts, for tests that kill what moves between them."""

from tests.lab.conftest import lab, two_hosts

__all__ = ["lab", "two_hosts"]
