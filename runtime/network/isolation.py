"""Cut a container off and connect it again, by its host ends: what is frozen must not answer.

A frozen process still has a kernel that acknowledges, retransmits and answers ARP for it. When its
copy may run elsewhere, only an interface that is down keeps quiet.
"""

from __future__ import annotations

import errno

from runtime.errors import NetworkError
from runtime.network import devices
from runtime.network.models import Networks


def isolate(networks: Networks, container_id: str) -> None:
    """Set every host end down. Raises NetworkError; those before it are down then."""
    for network in networks.veths:
        name = network.host_end(container_id)
        try:
            devices.bring_down(name)
        except OSError as error:
            raise NetworkError(name, f"cannot be set down: {error.strerror}") from error


def reconnect(networks: Networks, container_id: str) -> None:
    """Set every host end up again; one that is gone is no fault."""
    for network in networks.veths:
        name = network.host_end(container_id)
        try:
            devices.bring_up(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise NetworkError(name, f"cannot be set up: {error.strerror}") from error
