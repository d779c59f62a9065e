"""Batches through a real feeder, a real Redis and engine workers with the simulated engine."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tasks import keys
from tasks.bulk.records import BatchStatus
from tasks.bulk.window import LEAST
from tasks.queues import Priority, model_queue, queue_list
from tasks.records.outlooks import OutlookStore
from tests.bulk_stack import Bulk, bulk_on, chat_line
from tests.stack import Stack, stack
from tests.waiting import wait_until
from workers.placement.actions import Explanation, Outlook

pytestmark = pytest.mark.integration

MODELS = """
models:
  sim: {engine: sim, aliases: [light], sim: {seats: 16}}
  slow: {engine: sim, sim: {seats: 4, itl_ms: 50}}
  weak: {engine: sim, sim: {seats: 4, faults: true}}
  nobody: {engine: sim}
  coming: {engine: sim}
aliases:
  rolling: {desired: coming, previous: sim}
"""
LONG = 10_000


def queue_of(model: str) -> str:
    return queue_list(model_queue(model), Priority.BULK)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack"), MODELS) as started:
        for model in ("sim", "slow", "weak"):
            started.launch(model)
        yield started


@pytest.fixture
def bulk(running: Stack) -> Iterator[Bulk]:
    with bulk_on(running) as bulk:
        yield bulk


def test_every_line_has_one_answer(bulk: Bulk) -> None:
    bulk.feeder()
    batch = bulk.ended(bulk.submit(chat_line(i, "light" if i % 3 else "sim") for i in range(300)))
    assert (batch.counts.total, batch.counts.completed, batch.counts.failed) == (300, 300, 0)
    assert (batch.counts.prompt_tokens, batch.counts.completion_tokens) == (600, 600)
    found = bulk.output(batch)
    assert [line["custom_id"] for line in found] == [f"c-{i}" for i in range(300)]
    assert {line["response"]["status_code"] for line in found} == {200}
    assert len({line["response"]["body"]["choices"][0]["message"]["content"] for line in found}) > 290
    assert batch.error_file_id is None
    wait_until(lambda: not bulk.left_in_redis(), "the requests to be gone from Redis")


def test_what_the_api_would_refuse_ends_with_its_error_and_keeps_nobody_else(bulk: Bulk) -> None:
    bulk.feeder()
    lines = [chat_line(i) for i in range(6)]
    lines[1] = chat_line(1, temperature="hot")
    lines[3] = chat_line(3, "no-such-model")
    lines[4] = chat_line(4, nonsense=1)
    batch = bulk.ended(bulk.submit(lines))
    assert [line["custom_id"] for line in bulk.output(batch)] == ["c-0", "c-2", "c-5"]
    errors = {line["custom_id"]: line["response"] for line in bulk.errors(batch)}
    told = {id_: (it["status_code"], it["body"]["error"]["code"]) for id_, it in errors.items()}
    assert told == {"c-1": (400, "invalid_request"), "c-3": (404, "model_not_found"), "c-4": (400, "unknown_parameter")}
    assert batch.counts.failed == 3


def test_a_file_that_is_no_batch_fails_as_a_whole(bulk: Bulk) -> None:
    bulk.feeder()
    batch = bulk.ended(bulk.submit([chat_line(0), b"{not json\n", chat_line(0)]), BatchStatus.FAILED)
    assert [(flaw.line, flaw.code) for flaw in batch.flaws] == [(2, "invalid_json_line"), (3, "duplicate_custom_id")]
    assert batch.output_file_id is batch.error_file_id is None


def test_a_line_that_breaks_is_tried_three_times(bulk: Bulk) -> None:
    bulk.feeder()
    broken = chat_line(1, "weak", messages=[{"role": "user", "content": "!error"}])
    batch = bulk.ended(bulk.submit([chat_line(0, "weak"), broken]))
    (error,) = bulk.errors(batch)
    assert (error["custom_id"], error["response"]["status_code"]) == ("c-1", 500)
    assert error["response"]["body"]["error"]["code"] == "internal_error"
    attempts = [record for record in bulk.stack.workers if "weak" in record.replica_id]
    assert "".join(worker.log.read_text() for worker in attempts).count('"request_broke"') == 3


def test_several_batches_of_a_model_take_turns(bulk: Bulk) -> None:
    first = bulk.submit(chat_line(i, "slow", max_tokens=4) for i in range(60))
    second = bulk.submit(chat_line(i, "slow", max_tokens=4) for i in range(20))
    bulk.feeder()
    bulk.ended(second)
    assert bulk.batch(first).counts.completed < 60
    bulk.ended(first)


def test_a_cancelled_batch_ends_with_what_it_has(bulk: Bulk) -> None:
    bulk.feeder()
    lines = [chat_line(0, "slow"), *(chat_line(i, "slow", max_tokens=LONG) for i in range(1, 40))]
    batch_id = bulk.submit(lines)
    bulk.begun(batch_id)
    bulk.desk.cancel(batch_id, "")
    batch = bulk.ended(batch_id, BatchStatus.CANCELLED)
    assert [line["custom_id"] for line in bulk.output(batch)] == ["c-0"]
    assert batch.error_file_id is None
    assert (batch.counts.total, batch.counts.completed, batch.counts.failed) == (40, 1, 0)
    wait_until(lambda: bulk.stack.taken() == 0, "the seats to be free again")
    assert not bulk.left_in_redis()


def test_a_batch_whose_window_is_over_ends_with_what_it_has(bulk: Bulk) -> None:
    late_s = [0.0]
    bulk.feeder(clock=lambda: time.time() + late_s[0])
    lines = [chat_line(0, "slow"), *(chat_line(i, "slow", max_tokens=LONG) for i in range(1, 30))]
    batch_id = bulk.submit(lines)
    bulk.begun(batch_id)
    late_s[0] = 86_400
    batch = bulk.ended(batch_id, BatchStatus.EXPIRED)
    assert [line["custom_id"] for line in bulk.output(batch)] == ["c-0"]
    assert {line["error"]["code"] for line in bulk.errors(batch)} == {"batch_expired"}
    assert (batch.counts.completed, batch.counts.failed) == (1, 29)


def test_a_batch_that_is_cancelled_while_nobody_looks_is_cancelled_when_somebody_does(bulk: Bulk) -> None:
    batch_id = bulk.submit([chat_line(0)])
    bulk.desk.cancel(batch_id, "")
    bulk.feeder()
    assert bulk.ended(batch_id, BatchStatus.CANCELLED).output_file_id is None


def test_redis_may_forget_everything(bulk: Bulk) -> None:
    bulk.feeder()
    batch_id = bulk.submit(chat_line(i, "slow", max_tokens=6) for i in range(80))
    bulk.begun(batch_id, 10)
    client = bulk.stack.client()
    client.flushall()
    client.close()
    batch = bulk.ended(batch_id)
    assert sorted(line["custom_id"] for line in bulk.output(batch)) == sorted(f"c-{i}" for i in range(80))


def test_redis_may_be_away(bulk: Bulk) -> None:
    bulk.feeder()
    batch_id = bulk.submit(chat_line(i, "slow", max_tokens=6) for i in range(60))
    bulk.begun(batch_id, 5)
    bulk.stack.server.kill()
    bulk.stack.server.start()
    batch = bulk.ended(batch_id)
    assert len(bulk.output(batch)) == 60


def test_a_cold_model_has_a_few_lines_queued_and_the_loader_called(bulk: Bulk) -> None:
    bulk.feeder()
    batch_id = bulk.submit(chat_line(i, "nobody") for i in range(50))
    client = bulk.stack.client()
    wait_until(lambda: client.llen(queue_of("nobody")) == LEAST, "the first lines to be queued")
    wait_until(lambda: client.llen("loader") == 1, "the loader to be called")
    client.close()
    bulk.desk.cancel(batch_id, "")
    bulk.ended(batch_id, BatchStatus.CANCELLED)


def test_lines_of_a_model_that_can_never_be_end_and_those_of_one_that_may_come_wait(bulk: Bulk) -> None:
    bulk.feeder()
    batch_id = bulk.submit(chat_line(i, "nobody" if i % 2 else "coming") for i in range(50))
    client = bulk.stack.client()
    wait_until(lambda: client.llen(queue_of("nobody")) == client.llen(queue_of("coming")) == LEAST, "them to wait")
    never = Explanation(outlook=Outlook.CANNOT_RUN, text="too large for every device")
    later = Explanation(outlook=Outlook.NO_CAPACITY, text="all is taken")
    OutlookStore(client).write({"nobody": never, "coming": later})
    wait_until(lambda: bulk.batch(batch_id).counts.failed == 25, "the lines to end")
    assert not client.llen(queue_of("nobody"))
    assert client.llen(queue_of("coming")) == LEAST
    OutlookStore(client).forget("nobody")
    client.close()
    bulk.desk.cancel(batch_id, "")
    errors = bulk.errors(bulk.ended(batch_id, BatchStatus.CANCELLED))
    told = {(line["custom_id"], line["response"]["status_code"]) for line in errors if line["response"]}
    assert told == {(f"c-{i}", 503) for i in range(1, 50, 2)}


def test_another_build_answers_when_the_desired_one_cannot_be_had(bulk: Bulk) -> None:
    client = bulk.stack.client()
    instead = Explanation(outlook=Outlook.NO_CAPACITY, text="all is taken", instead="sim")
    OutlookStore(client).write({"coming": instead})
    client.close()
    bulk.feeder()
    batch = bulk.ended(bulk.submit(chat_line(i, "rolling") for i in range(20)))
    assert {line["response"]["body"]["model"] for line in bulk.output(batch)} == {"sim"}


def test_lines_of_a_model_that_is_taken_away_end_and_those_of_one_that_just_came_run(bulk: Bulk) -> None:
    models = bulk.stack.settings.models
    client = bulk.stack.client()
    bulk.feeder()
    batch_id = bulk.submit(chat_line(i, "nobody") for i in range(50))
    wait_until(lambda: client.llen(queue_of("nobody")) == LEAST, "some lines to be queued")
    try:
        models.write_text(MODELS.replace("nobody:", "somebody:").replace("aliases: [light]", "aliases: [light, new]"))
        # What a batch of the new name finds is no older than the batch.
        new = bulk.ended(bulk.submit(chat_line(i, "new") for i in range(5)))
        assert (new.counts.completed, new.counts.failed) == (5, 0)
        batch = bulk.ended(batch_id)
    finally:
        models.write_text(MODELS)
    assert {line["response"]["body"]["error"]["code"] for line in bulk.errors(batch)} == {"model_not_found"}
    assert batch.counts.failed == 50
    assert not client.llen(queue_of("nobody"))
    wait_until(lambda: not bulk.left_in_redis(), "the requests to be gone from Redis")
    client.close()


def test_a_message_that_got_lost_is_sent_again(bulk: Bulk) -> None:
    bulk.feeder()
    batch_id = bulk.submit([chat_line(0, "nobody")])
    client = bulk.stack.client()
    wait_until(lambda: client.llen(queue_of("nobody")) == 1, "it to be queued")
    client.delete(queue_of("nobody"))
    wait_until(lambda: client.llen(queue_of("nobody")) == 1, "it to be queued again", timeout_s=40)
    client.close()
    bulk.desk.cancel(batch_id, "")
    bulk.ended(batch_id, BatchStatus.CANCELLED)


def test_a_feeder_that_stops_leaves_everything_to_the_next(bulk: Bulk) -> None:
    first = bulk.feeder()
    batch_id = bulk.submit(chat_line(i, "slow", max_tokens=4) for i in range(60))
    bulk.begun(batch_id, 10)
    first.stop()
    assert bulk.batch(batch_id).status is BatchStatus.IN_PROGRESS
    bulk.feeder()
    batch = bulk.ended(batch_id)
    assert [line["custom_id"] for line in bulk.output(batch)] == [f"c-{i}" for i in range(60)]


def test_two_that_feed_at_once_do_everything_once(bulk: Bulk) -> None:
    batch_id = bulk.submit(chat_line(i) for i in range(400))
    client = bulk.stack.client()
    first = bulk.feeder()
    bulk.begun(batch_id, 10)
    client.delete(keys.BULK_LOCK)  # as if it had lapsed while the first was held up
    bulk.feeder()
    client.close()
    batch = bulk.ended(batch_id)
    assert sorted(line["custom_id"] for line in bulk.output(batch)) == sorted(f"c-{i}" for i in range(400))
    assert batch.counts.completed == 400
    first.stop()
