"""What a monitor is told of requests: every end by its name, and nothing for longer than it asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.events import EventReceiver
from celery.worker.control import Panel
from celery.worker.heartbeat import Heart

from tasks.messages import Call, Done, Failed, Started
from tests.stack import Stack, chat, read, stack
from tests.waiting import wait_until
from workers.host.monitoring import LAPSE_S, WATCHED_BEAT_S, look

MODELS = """
models:
  sim:
    engine: sim
    sim: {itl_ms: 10, seats: 8, faults: true}
"""
LONG = 100_000


@dataclass
class Monitor:
    """Receives events as Flower does."""

    app: Celery
    seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    connected: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with self.app.connection_for_read() as connection:
            receiver = EventReceiver(connection, handlers={"*": self._note}, app=self.app)
            self.connected.set()
            while not receiver.should_stop and self.connected.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.2, wakeup=False)
                except TimeoutError:
                    continue

    def _note(self, event: dict[str, Any]) -> None:
        if event["type"].startswith("task-"):
            self.seen.setdefault(event["uuid"], []).append(event)

    def ask(self) -> str:
        """Ask one worker for its events, and return what it says."""
        replies = self.app.control.broadcast("enable_events", reply=True, limit=1, timeout=10)
        (answer,) = replies[0].values()
        return str(answer["ok"])

    def types(self, call: Call) -> list[str]:
        return [event["type"].removeprefix("task-") for event in self.seen.get(call.id, ())]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path, MODELS, CELERITY_DRAIN_TIMEOUT_S="0.2") as started:
        yield started


@pytest.fixture
def monitor(running: Stack) -> Iterator[Monitor]:
    app = Celery("monitor", broker=running.settings.broker_url)
    app.conf.update(event_serializer="json", accept_content=["json"], broker_transport_options={"socket_timeout": 10})
    monitor = Monitor(app)
    thread = threading.Thread(target=monitor.run)
    thread.start()
    assert monitor.connected.wait(20)
    yield monitor
    monitor.connected.clear()
    thread.join(20)
    app.close()


@pytest.mark.integration
def test_every_end_of_a_request_is_told_by_its_name(running: Stack, monitor: Monitor) -> None:
    first = running.worker()
    assert monitor.ask() == "task events enabled"
    assert monitor.ask() == "task events already enabled"
    dispatcher = running.dispatcher()

    def submit(text: str, max_tokens: int) -> tuple[Call, Any]:
        call = chat(text, max_tokens=max_tokens, gateway=dispatcher.gateway_id)
        return call, dispatcher.submit(call, max_depth=9)

    done, answer = submit("a-secret-prompt", 5)
    assert isinstance(read(answer)[-1], Done)
    failed, answer = submit("!error a-secret-prompt", 5)
    assert isinstance(read(answer)[-1], Failed)
    left, answer = submit("a-secret-prompt", LONG)
    assert isinstance(answer.next(10), Started)
    answer.close()
    moved, answer = submit("a-secret-prompt", 200)
    assert isinstance(answer.next(10), Started)
    wait_until(lambda: monitor.types(left)[2:], "the one that was left to end")
    assert first.terminate() == 0
    running.worker()
    monitor.ask()
    assert isinstance(read(answer)[-1], Done)
    wait_until(lambda: monitor.types(moved)[-1:] == ["succeeded"], "the one that was moved to end")

    assert monitor.types(done) == ["received", "started", "succeeded"]
    assert monitor.types(failed) == ["received", "started", "failed"]
    assert monitor.types(left) == ["received", "started", "revoked"]
    # The second worker may have begun it before it was asked for events.
    assert monitor.types(moved)[:3] == ["received", "started", "retried"]
    assert monitor.seen[failed.id][-1]["exception"] == "RequestFailedError('internal_error')"
    assert monitor.seen[done.id][-1]["runtime"] > 0.03
    assert "a-secret-prompt" not in str(monitor.seen)


class _Dispatcher:
    def __init__(self) -> None:
        self.groups = {"worker", "task"}
        self.enabled = True
        self.on_enabled: set[object] = set()
        self.on_disabled: set[object] = set()
        self.sent: list[float] = []

    def send(self, event: str, *, freq: float, **facts: object) -> None:
        """Note of each sign of life how soon the next one is to come."""
        self.sent.append(freq)


@dataclass
class _Consumer:
    events_asked_at: float | None
    event_dispatcher: _Dispatcher | None = field(default_factory=_Dispatcher)
    unwatched_beat_s: float | None = None
    heart: Heart | None = None

    @property
    def tells(self) -> bool:
        assert self.event_dispatcher is not None
        return "task" in self.event_dispatcher.groups


def test_events_lapse_when_nobody_asks_for_them_again() -> None:
    consumer = _Consumer(events_asked_at=100.0)
    look(consumer, 100.0 + LAPSE_S - 1)
    assert consumer.tells
    look(consumer, 100.0 + LAPSE_S)
    assert not consumer.tells
    assert consumer.events_asked_at is None


class _Timer:
    """Of the hub: what it calls again and again, by how often."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def call_repeatedly(self, interval_s: float, call: object, args: object) -> float:
        self.calls.append(interval_s)
        return interval_s

    def cancel(self, interval_s: float) -> None:
        self.calls.remove(interval_s)


def test_heartbeats_come_oftener_while_somebody_watches() -> None:
    timer, dispatcher = _Timer(), _Dispatcher()
    heart = Heart(timer, dispatcher, 15)
    heart.start()
    consumer = _Consumer(events_asked_at=None, event_dispatcher=dispatcher, heart=heart)
    for _ in range(2):
        Panel.data["enable_events"](SimpleNamespace(consumer=consumer))
        assert timer.calls == [WATCHED_BEAT_S]
    asked_at = consumer.events_asked_at
    assert asked_at is not None
    look(consumer, asked_at + LAPSE_S)
    assert timer.calls == [15]
    # A monitor believes a heartbeat for as long as it says that the next one takes.
    assert dispatcher.sent == [15, WATCHED_BEAT_S, 15]


def test_events_that_a_worker_was_started_with_stay() -> None:
    consumer = _Consumer(events_asked_at=None)
    look(consumer, 1e9)
    assert consumer.tells


def test_a_worker_that_has_lost_redis_forgets_nothing() -> None:
    consumer = _Consumer(events_asked_at=100.0, event_dispatcher=None)
    look(consumer, 1e9)
    assert consumer.events_asked_at == 100.0
