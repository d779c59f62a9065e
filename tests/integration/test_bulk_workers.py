"""Bulk workers as processes, killed in the middle: every line has exactly one result."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from redis import Redis

from tasks import keys
from tasks.bulk.admission import KEEP_S
from tasks.bulk.records import BatchRecord, BatchStatus
from tests.bulk_stack import Bulk, BulkWorker, bulk_on, chat_line
from tests.stack import Stack, stack
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

MODELS = """
models:
  sim: {engine: sim, sim: {seats: 64}}
  slow: {engine: sim, sim: {seats: 4, itl_ms: 30}}
"""
MANY = 10_000


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A Redis for one test, and either database for those that ask for `ledger_url`."""
    url = request.getfixturevalue("ledger_url") if "ledger_url" in request.fixturenames else ""
    with stack(tmp_path, MODELS, CELERITY_DATABASE_URL=url) as started:
        yield started


@pytest.fixture
def bulk(running: Stack) -> Iterator[Bulk]:
    with bulk_on(running) as bulk:
        yield bulk


def assert_each_once(bulk: Bulk, batch: BatchRecord, lines: int) -> None:
    found = [line["custom_id"] for line in bulk.output(batch)]
    assert len(found) == lines
    assert set(found) == {f"c-{i}" for i in range(lines)}
    assert (batch.counts.completed, batch.counts.failed) == (lines, 0)


def leads(worker: BulkWorker) -> bool:
    return "feeder leads" in Path(worker.log).read_text()


def ends(redis: Redis, key: bytes) -> bool:
    """Say whether a request has ended and will be forgotten within the time that its result is kept, or is gone."""
    return not redis.exists(key) or (redis.hget(key, "ended") == b"completed" and 0 < redis.ttl(key) <= KEEP_S)


def test_another_takes_over_from_one_that_is_killed(ledger_url: str, running: Stack, bulk: Bulk) -> None:
    assert bulk.stack.settings.ledger_url == ledger_url
    running.worker("slow")
    first = bulk.worker("first")
    wait_until(lambda: leads(first), "the first to lead")
    second = bulk.worker("second")
    wait_until(lambda: "second@" in Path(second.log).read_text(), "the second to be up")
    batch_id = bulk.submit(chat_line(i, "slow", max_tokens=4) for i in range(200))
    bulk.begun(batch_id, 20)
    assert not leads(second)
    first.kill()
    assert_each_once(bulk, bulk.ended(batch_id), 200)
    assert leads(second)
    assert second.terminate() == 0


def test_one_that_is_told_to_stop_leaves_at_once_and_loses_nothing(running: Stack, bulk: Bulk) -> None:
    running.worker("slow")
    first = bulk.worker("first")
    batch_id = bulk.submit(chat_line(i, "slow", max_tokens=4) for i in range(100))
    bulk.begun(batch_id, 20)
    assert first.terminate() == 0
    with contextlib.closing(running.client()) as client:
        assert not client.exists(keys.BULK_LOCK)
    assert bulk.batch(batch_id).status is BatchStatus.IN_PROGRESS
    bulk.worker("second")
    assert_each_once(bulk, bulk.ended(batch_id), 100)


def test_ten_thousand_lines_while_everybody_is_killed_in_turn(running: Stack, bulk: Bulk) -> None:
    first, _ = running.launch("sim"), running.worker("sim")
    gateway = running.gateway()
    bulk.worker("first")
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none")
    text = "".join(json.dumps(chat_line(i, max_tokens=1)) + "\n" for i in range(MANY))
    file = client.files.create(file=("many.jsonl", text.encode()), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    bulk.begun(made.id, 1000)
    first.kill()
    running.launch("sim")
    bulk.begun(made.id, 3000)
    bulk.workers[0].kill()
    bulk.worker("second")
    bulk.begun(made.id, 5000)
    gateway.process.kill()
    gateway.process.wait()
    client.close()
    bulk.begun(made.id, 7000)
    client = openai.OpenAI(base_url=f"{running.gateway().url}/v1", api_key="none")
    assert client.batches.retrieve(made.id).request_counts is not None
    assert_each_once(bulk, bulk.ended(made.id, within_s=120), MANY)
    ended = client.batches.retrieve(made.id)
    assert ended.output_file_id is not None
    assert len(client.files.content(ended.output_file_id).text.splitlines()) == MANY
    client.close()
    # A feeder that dies between recording results and removing their requests leaves these, until they lapse.
    with contextlib.closing(running.client()) as redis:
        wait_until(lambda: all(ends(redis, key) for key in redis.scan_iter(keys.request("*"))), "all requests to end")
