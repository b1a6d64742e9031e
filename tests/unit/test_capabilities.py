"""Names of capabilities and their bits."""

import pytest

from runtime import capabilities
from runtime.spec_model import Capabilities


def test_names_are_numbered_as_in_the_kernels_header() -> None:
    assert capabilities.NAMES[0] == "CAP_CHOWN"
    assert capabilities.NAMES.index("CAP_SYS_ADMIN") == 21
    assert capabilities.NAMES.index("CAP_CHECKPOINT_RESTORE") == 40
    assert len(capabilities.NAMES) == 41


def test_a_mask_and_its_names_are_inverse() -> None:
    assert capabilities.mask(["CAP_KILL", "CAP_CHOWN"]) == 0b100001
    assert capabilities.names_of(0b100001) == ["CAP_CHOWN", "CAP_KILL"]


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="CAP_FLY"):
        capabilities.mask(["CAP_FLY"])


def test_each_set_has_its_own_mask() -> None:
    plan = capabilities.plan(Capabilities(bounding=("CAP_CHOWN",), ambient=("CAP_KILL",)))
    assert plan == {
        "bounding": 1,
        "effective": 0,
        "inheritable": 0,
        "permitted": 0,
        "ambient": 1 << 5,
    }


def test_what_the_host_lacks_is_named() -> None:
    plan = capabilities.plan(Capabilities(bounding=("CAP_CHOWN", "CAP_SYS_ADMIN")))
    assert capabilities.missing(plan, 1) == ["CAP_SYS_ADMIN"]
    assert capabilities.missing(plan, ~0) == []
