from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from workers.engine import orphan


def test_a_folder_outlives_its_worker_only_until_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f"{orphan.SCRATCH_PREFIX}{ended.pid}-x"
    in_use = tmp_path / f"{orphan.SCRATCH_PREFIX}{os.getpid()}-x"
    foreign = tmp_path / f"{orphan.SCRATCH_PREFIX}notes"
    for folder in (left, in_use, foreign):
        folder.mkdir()
    made = Path(orphan.new_scratch())
    assert made.is_dir()
    assert set(tmp_path.iterdir()) == {made, in_use, foreign}
