"""A smaller part of the fault suite: the rows that are quick, on the simulated engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.matrix import ROWS
from tests.faults.row import Row
from tests.faults.runner import Runner

pytestmark = pytest.mark.integration

# The others take minutes, or say little about correctness that these do not.
QUICK = ("F2", "F8", "F9", "F16", "F19")


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.id in QUICK and row.engine == "sim"],
    ids=lambda row: f"{row.id}-{row.act.__name__}",
)
def test_row(row: Row, tmp_path: Path) -> None:
    runner = Runner(tmp_path, long=False)
    try:
        assert runner.run(row).problems == []
    finally:
        runner.drop()
