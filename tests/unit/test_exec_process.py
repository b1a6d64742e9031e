"""What `exec` makes of its options and of the container's own process."""

from pathlib import Path
from typing import Any

import pytest

from migrator.commands._process import process_for
from runtime.container import Container
from runtime.spec.model import Process
from runtime.spec.reading import parse
from runtime.state import State
from tests.bundles import merged, spec

ASKED_FOR: dict[str, Any] = {
    "file": None,
    "args": ["id"],
    "cwd": None,
    "env": (),
    "user": None,
    "additional_gids": (),
    "caps": (),
    "apparmor": None,
    "process_label": None,
    "no_new_privs": False,
    "tty": False,
}


def process(own: dict[str, Any], **options: Any) -> Process:
    """What *options* ask for in a container whose process is *own*."""
    config = parse(merged(spec("true"), {"process": own})).raw
    bundle = Path("/bundle")
    state = State(
        id="c1", oci_version="1.2.0", bundle=bundle, rootfs=bundle, spec=dict(config), created=""
    )
    return process_for(Container(Path("/run"), state), **ASKED_FOR | options)


@pytest.mark.parametrize("nothing", [None, []])
def test_options_add_to_what_is_null_in_config_json_as_to_what_is_empty(nothing: object) -> None:
    sets = dict.fromkeys(("bounding", "effective", "permitted"), nothing)
    own = {"env": nothing, "user": {"additionalGids": nothing}, "capabilities": sets}
    added = process(own, env=("A=1",), additional_gids=(7,), caps=("CAP_KILL",))
    assert (added.env, added.user.additional_gids) == (("A=1",), (7,))
    assert added.capabilities.bounding == ("CAP_KILL",)
