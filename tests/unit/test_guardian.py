"""Who resolves a migration whose process has died, wherever that process was."""

from __future__ import annotations

from pathlib import Path

from migrator.guardian import Guardian
from migrator.journal import DESTINATION, exists, open_journal


def test_a_guardian_runs_no_module_of_the_directory_that_it_was_started_in(tmp_path, monkeypatch):
    """That may be the rootfs of the container, which then could have root of the host do anything.

    Its root was given by a relative path all the same.
    """
    planted = tmp_path / "migrator"
    planted.mkdir()
    (planted / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'x')")
    monkeypatch.chdir(tmp_path)
    root = Path("root")
    open_journal(root, "c1", DESTINATION).close()
    guardian = Guardian(root, "c1")
    guardian.hand_over()
    guardian._process.wait(20)
    assert not exists(root, "c1", DESTINATION), "it has resolved nothing"
    assert not (tmp_path / "ran").exists()
