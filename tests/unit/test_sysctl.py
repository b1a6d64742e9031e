"""Kernel parameters: names to files, and only those that a namespace keeps apart."""

import pytest

from runtime import sysctl

ALL = frozenset(("network", "ipc", "uts"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/7.forwarding", "net/ipv4/conf/eth0.7/forwarding"),
        ("net/ipv4/conf/eth0.7/forwarding", "net/ipv4/conf/eth0.7/forwarding"),
        ("kernel", "kernel"),
    ],
)
def test_a_name_has_a_file(name: str, file: str) -> None:
    assert sysctl.file_name(name) == file


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("net.ipv4.ip_forward", "network"),
        ("kernel.shmmax", "ipc"),
        ("fs/mqueue/msg_max", "ipc"),
        ("kernel.domainname", "uts"),
    ],
)
def test_a_parameter_needs_its_namespace(name: str, namespace: str) -> None:
    assert sysctl.fault(name, ALL) is None
    told = sysctl.fault(name, ALL - {namespace})
    assert told == f"would change the host: the container has no {namespace} namespace"


@pytest.mark.parametrize(
    "name", ["kernel.panic", "vm.swappiness", "fs.file-max", "netx.y", "net", "user.max_x", "dev.x"]
)
def test_a_parameter_of_the_host_is_refused(name: str) -> None:
    assert sysctl.fault(name, ALL) == "would change the host: no namespace keeps it apart"


@pytest.mark.parametrize(
    "name", ["", ".", "net..x", "net/../kernel/panic", "net/./x", "/net/x", "net.x.", "net.//.x"]
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    assert sysctl.fault(name, ALL) == "is not the name of a kernel parameter"


def test_the_host_name_has_a_field_of_its_own() -> None:
    assert sysctl.fault("kernel.hostname", ALL) == "use the field hostname for it"
