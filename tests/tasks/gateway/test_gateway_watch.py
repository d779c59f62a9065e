"""What a gateway does about answers that Redis has forgotten, and about clients that leave meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from tasks import keys
from tasks.errors import ServiceUnavailableError
from tasks.gateway.cold_watch import ColdWatch
from tasks.gateway.followed import SILENT_S, Followed
from tasks.gateway.gateway_watch import GatewayWatch
from tasks.gateway.ready_models import ReadyModels
from tasks.gateway.stream_answer import StreamAnswer
from tasks.messages import Call, Delta, Endpoint, Started
from tasks.records.outlooks import OutlookStore
from tasks.requests.inbox import Inbox
from tasks.requests.pulse import RESTS_AFTER_S
from tasks.requests.request_store import RequestStore
from tasks.requests.stream_reader import StreamReader
from tests.stack import RedisServer

pytestmark = pytest.mark.integration

CALL = Call(id="r", model="m", endpoint=Endpoint.CHAT, body=b"{}", stream=True, gateway="g")


class Gateway:
    """The parts of a gateway, without their threads: a test takes each turn itself."""

    def __init__(self, server: RedisServer, client: redis.Redis, on_readmit: Callable[[], None] = lambda: None) -> None:
        self.store = RequestStore(client)
        self.reader = StreamReader(server.url, "g")
        self.readmitted = 0
        self._on_readmit = on_readmit
        self._outlooks = OutlookStore(client)
        cold = ColdWatch(client, self.store, ReadyModels(client))
        self.watch = GatewayWatch(client, "g", self.reader, self.store, cold=cold, readmit=self._readmit)

    def _readmit(self, call: Call) -> None:
        self.readmitted += 1
        self.store.admit(call, gateway_id="g", max_depth=-1)
        self._on_readmit()

    def follow(self, *, again: bool = True) -> StreamAnswer:
        inbox = self.reader.follow("r")
        followed = Followed(inbox=inbox, call=CALL, again=again)
        self.watch.add(followed)
        return StreamAnswer(followed, self.reader, self.watch, self.store, self._outlooks)

    def look(self, answer: StreamAnswer) -> None:
        """Take a turn in which the answer has been silent for long."""
        answer._inbox.heard_at -= SILENT_S + 1
        self.watch._turn()


def silent(inbox: Inbox, *, relayed: bool) -> None:
    inbox.take([("1-0", Started("w", 1))])
    if relayed:
        inbox.take([("1-1", Delta(b"data: a\n\n"))])


def test_a_forgotten_request_is_asked_again_while_nothing_was_relayed(server: RedisServer, client: redis.Redis) -> None:
    gateway = Gateway(server, client)
    answer = gateway.follow()
    silent(answer._inbox, relayed=False)
    gateway.look(answer)
    assert gateway.readmitted == 1
    assert client.llen("model.m") == 1
    answer.close()


def test_a_forgotten_answer_that_had_begun_ends_with_an_error_and_is_cancelled(
    server: RedisServer, client: redis.Redis
) -> None:
    gateway = Gateway(server, client)
    answer = gateway.follow()
    silent(answer._inbox, relayed=True)
    gateway.look(answer)
    assert isinstance(answer.next(0), Started)
    assert isinstance(answer.next(0), Delta)
    with pytest.raises(ServiceUnavailableError):
        answer.next(0)
    answer.close()
    assert gateway.readmitted == 0


def test_a_client_that_leaves_while_it_is_asked_again_leaves_nothing(server: RedisServer, client: redis.Redis) -> None:
    answers: list[StreamAnswer] = []

    def leave() -> None:
        answers[0].close()

    gateway = Gateway(server, client, on_readmit=leave)
    answers.append(gateway.follow())
    gateway.look(answers[0])
    gateway.watch._turn()
    assert len(gateway.reader) == 0
    assert client.llen("model.m") == 0
    assert not client.exists(keys.request("r"))


def test_the_first_answer_after_a_rest_is_looked_after_at_once(server: RedisServer, client: redis.Redis) -> None:
    gateway = Gateway(server, client)
    gateway.watch._pace.busy(time.monotonic() - 2 * RESTS_AFTER_S)
    gateway.watch._turn()
    assert gateway.watch._resting
    answer = gateway.follow()
    assert gateway.watch._wake.is_set()
    gateway.watch._turn()
    assert not gateway.watch._resting
    answer.close()


def test_who_seems_dead_to_a_resting_gateway_is_looked_at_again_soon(server: RedisServer, client: redis.Redis) -> None:
    gateway = Gateway(server, client)
    gateway.watch._pace.busy(time.monotonic() - 2 * RESTS_AFTER_S)
    client.zadd(keys.REPLICAS, {"w": 1})
    gateway.watch._turn()
    assert not gateway.watch._resting


def test_a_watch_survives_what_it_cannot_read(server: RedisServer, client: redis.Redis) -> None:
    gateway = Gateway(server, client)
    client.set(keys.REPLICAS, "not a sorted set")
    gateway.watch._turn()
    client.delete(keys.REPLICAS)
    gateway.watch._turn()
    assert client.exists(keys.gateway("g"))
