"""What Celery's own tools see of an engine worker is true."""

from __future__ import annotations

import json

import pytest
from celery import Celery

from tasks import keys
from tasks.envelope import INFER, envelope
from tasks.messages import Done, Started
from tasks.queues import Priority
from tests.stack import Stack, Worker, chat, read
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def slow(running: Stack) -> Worker:
    return running.worker("slow")


def test_inspect_active_shows_the_running_request_without_its_prompt(running: Stack, slow: Worker) -> None:
    dispatcher = running.dispatcher()
    call = chat("a-secret-prompt", model="slow", max_tokens=10_000, gateway=dispatcher.gateway_id)
    answer = dispatcher.submit(call, max_depth=9)
    assert isinstance(answer.next(10), Started)
    active = running.celery("inspect", "active")
    answer.close()
    assert [task["id"] for task in active] == [call.id]
    assert active[0]["name"] == INFER
    assert active[0]["acknowledged"] is False
    assert "a-secret-prompt" not in json.dumps(active)


def test_stats_show_the_pool_and_its_engine(running: Stack, slow: Worker) -> None:
    pool = running.celery("inspect", "stats")["pool"]
    assert pool["implementation"] == "workers.host.pool:EnginePool"
    assert pool["max-concurrency"] == 2
    assert pool["processes"] == [slow.process.pid]
    assert pool["engine"]["model"] == "slow"
    assert pool["engine"]["state"] == "ready"


@pytest.mark.parametrize("button", ["pool_grow", "pool_shrink"])
def test_flowers_buttons_do_no_harm(running: Stack, slow: Worker, button: str) -> None:
    assert "ok" in running.celery("control", button, "1")
    assert slow.process.poll() is None


def test_revoking_a_running_request_frees_its_seat(running: Stack, slow: Worker) -> None:
    dispatcher = running.dispatcher()
    call = chat("x", model="slow", max_tokens=10_000, gateway=dispatcher.gateway_id)
    answer = dispatcher.submit(call, max_depth=9)
    assert isinstance(answer.next(10), Started)
    running.celery("control", "terminate", "SIGTERM", call.id)
    client = running.client()
    wait_until(lambda: client.hlen(keys.unacked(slow.replica_id)) == 0, "the message to be acknowledged")
    wait_until(lambda: running.celery("inspect", "stats")["pool"]["running"] == 0, "the seat to be free")
    answer.close()
    client.close()


def test_rubbish_in_the_queue_harms_nobody(running: Stack, slow: Worker) -> None:
    app = Celery("rubbish", broker=running.settings.broker_url)
    app.conf.update(broker_transport_options={"priority_steps": [0, 9], "body_encoding": "utf-8"})
    for task, args in (
        (INFER, ()),
        (INFER, (1, 2)),
        (INFER, (["x"],)),
        ("tasks.nothing", ()),
        ("celery.accumulate", ()),
    ):
        app.send_task(task, args=args, queue="model.slow", ignore_result=True)
    app.close()
    dispatcher = running.dispatcher()
    answer = dispatcher.submit(chat("after", model="slow", gateway=dispatcher.gateway_id), max_depth=9)
    assert isinstance(read(answer)[-1], Done)
    assert slow.process.poll() is None
    client = running.client()
    wait_until(lambda: client.hlen(keys.unacked(slow.replica_id)) == 0, "the rubbish to be acknowledged")
    client.close()


def test_our_message_is_celerys_own(running: Stack) -> None:
    """Field by field what `apply_async` writes, but for the ids and the empty reply address."""
    app = Celery("reference", broker=running.settings.broker_url)
    app.conf.update(broker_transport_options={"priority_steps": [0, 9], "body_encoding": "utf-8"})
    app.conf.task_ignore_result = True
    app.send_task(
        INFER,
        args=("req_1",),
        task_id="req_1",
        queue="reference",
        priority=9,
        argsrepr="-",
        kwargsrepr="-",
        time_limit=40,
        soft_time_limit=30,
        ignore_result=True,
    )
    app.close()
    client = running.client()
    (raw,) = client.lrange("reference\x06\x169", 0, -1)
    client.delete("reference\x06\x169")
    client.close()
    theirs, ours = (
        json.loads(raw),
        json.loads(
            envelope(
                task=INFER,
                task_id="req_1",
                tag="req_1",
                args=("req_1",),
                queue="reference",
                priority=Priority.BULK,
                time_limit_s=30,
            )
        ),
    )
    for message in (theirs, ours):
        message["headers"].pop("origin")
        for own in ("reply_to", "delivery_tag", "argsrepr", "kwargsrepr"):
            message["properties"].pop(own, None)
        message["body"] = json.loads(message["body"])
    assert ours == theirs
