"""A smaller part of the fault suite: the rows that are quick, on the simulated engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import rows_clients, rows_gateways, rows_redis, rows_workers
from tests.faults.matrix import ROWS
from tests.faults.row import Row
from tests.faults.runner import Runner

pytestmark = pytest.mark.integration

# One of each kind: a worker, an engine, Redis, a gateway, clients. The others take minutes.
QUICK = {
    rows_workers.only_worker_killed,
    rows_workers.poison,
    rows_redis.restarted_without_aof,
    rows_gateways.killed,
    rows_clients.leaves_in_every_phase,
}


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.act in QUICK], ids=lambda row: f"{row.id}-{row.act.__name__}"
)
def test_row(row: Row, tmp_path: Path) -> None:
    runner = Runner(tmp_path, timed=False)
    try:
        assert runner.run(row).problems == []
    finally:
        runner.drop()
