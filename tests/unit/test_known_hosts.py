"""known_hosts(5) as people have it: with markers, comments and lines that are damaged."""

from __future__ import annotations

import paramiko
import pytest

from migrator.transport import _known_hosts, _load, _revoked


@pytest.fixture(scope="module")
def keys() -> list[paramiko.ECDSAKey]:
    return [paramiko.ECDSAKey.generate() for _ in range(3)]


def test_lines_that_paramiko_cannot_read_hide_no_other(tmp_path, keys):
    ours, other, revoked = (f"{key.get_name()} {key.get_base64()}" for key in keys)
    hashed = paramiko.HostKeys.hash_host("beta")
    (tmp_path / "one").write_text(
        f"# a comment\n\n@cert-authority *.example {other}\n@revoked * {revoked}\n"
        f"damaged ecdsa-sha2-nistp256 AAAA%%%\nalpha,10.0.0.1 {ours} of alpha\n{hashed} {ours}\n"
    )
    (tmp_path / "two").write_text(f"alpha {other}\n")
    files = (tmp_path / "one", tmp_path / "two", tmp_path / "none", tmp_path)
    lines, known = list(_known_hosts(files)), paramiko.HostKeys()
    _load(known, lines)
    assert [known.check(name, keys[0]) for name in ("alpha", "10.0.0.1", "beta")] == [True] * 3
    assert not known.check("alpha", keys[1])
    assert known.lookup("damaged") is None
    assert _revoked(lines) == {keys[2].get_base64()}
