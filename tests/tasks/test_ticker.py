"""Beat asks the loader as everybody else does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tasks.queues import LOADER_QUEUE
from tests.stack import REPOSITORY, RedisServer
from tests.waiting import wait_until
from workers.launcher.base import CELERY

pytestmark = pytest.mark.integration


def test_one_message_waits_however_long_no_loader_runs(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    env = {
        "CELERITY_STATE_DIR": str(tmp_path),
        "CELERITY_REDIS_URL": server.url,
        "CELERITY_LOADER_TICK_S": "0.1",
        "PATH": sys.path[0],
    }
    with (tmp_path / "log").open("wb") as log:
        beat = subprocess.Popen(
            [*CELERY, "-A", "tasks.app", "beat", "--pidfile="], cwd=REPOSITORY, env=env, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: client.llen(LOADER_QUEUE), "the first message")
        first = client.lindex(LOADER_QUEUE, 0)
        client.delete(LOADER_QUEUE)
        wait_until(lambda: client.llen(LOADER_QUEUE), "another, once that is taken")
        assert client.lindex(LOADER_QUEUE, 0) != first
        calls = _calls(client)
        wait_until(lambda: _calls(client) >= calls + 5, "beat to ask again and again")
        assert client.llen(LOADER_QUEUE) == 1
    finally:
        beat.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            beat.wait(20)
    assert beat.returncode == 0, (tmp_path / "log").read_text()


def _calls(client: redis.Redis) -> int:
    """Return how often a script was run."""
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])
