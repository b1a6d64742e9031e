"""Names of capabilities and their bits."""

import pytest

from runtime import capabilities
from runtime.spec.model import Capabilities


def test_names_are_numbered_as_in_the_kernels_header() -> None:
    assert capabilities.NAMES[0] == "CAP_CHOWN"
    assert capabilities.NAMES.index("CAP_SYS_ADMIN") == 21
    assert capabilities.NAMES.index("CAP_CHECKPOINT_RESTORE") == 40
    assert len(capabilities.NAMES) == 41


def test_a_mask_and_its_names_are_inverse() -> None:
    assert capabilities.mask(["CAP_KILL", "CAP_CHOWN"]) == 0b100001
    assert capabilities.names_of(0b100001) == ["CAP_CHOWN", "CAP_KILL"]


def test_an_unknown_name_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    names = ("CAP_FLY", "CAP_KILL", "UNKNOWN_CAP")
    assert capabilities.plan(Capabilities(bounding=names))["bounding"] == 1 << 5
    assert "ignoring unknown or unavailable capabilities: CAP_FLY, UNKNOWN_CAP" in caplog.text


def test_each_set_has_its_own_mask(caplog: pytest.LogCaptureFixture) -> None:
    sets = dict.fromkeys(("ambient", "inheritable", "permitted"), ("CAP_KILL",))
    assert capabilities.plan(Capabilities(bounding=("CAP_CHOWN",), **sets)) == {
        "bounding": 1,
        "effective": 0,
        "inheritable": 1 << 5,
        "permitted": 1 << 5,
        "ambient": 1 << 5,
    }
    assert not caplog.text


def test_what_cannot_be_ambient_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sets = Capabilities(inheritable=("CAP_KILL",), ambient=("CAP_KILL", "CAP_CHOWN"))
    assert capabilities.plan(sets)["ambient"] == 0
    sets = sets._replace(permitted=("CAP_KILL", "CAP_CHOWN"))
    assert capabilities.plan(sets)["ambient"] == 1 << 5
    assert "can't raise ambient capability CAP_CHOWN: " in caplog.text


def test_what_the_host_lacks_is_named() -> None:
    plan = capabilities.plan(Capabilities(bounding=("CAP_CHOWN", "CAP_SYS_ADMIN")))
    assert capabilities.missing(plan, 1) == ["CAP_SYS_ADMIN"]
    assert capabilities.missing(plan, ~0) == []
