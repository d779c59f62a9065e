from __future__ import annotations

import threading
from typing import cast

import hiredis
import pytest
import redis

from tasks.shared_line import SharedLine, _Turn
from tests.stack import in_threads
from tests.waiting import wait_until


class FakeConnection:
    """Answers every command with its own name, but not before it may."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.writes: list[list[bytes]] = []
        self._reader = hiredis.Reader()
        self.unread: list[bytes] = []
        self.broken: Exception | None = None
        self.disconnected = 0

    def send_packed_command(self, packed: list[bytes]) -> None:
        (data,) = packed
        names: list[bytes] = []
        self._reader.feed(data)
        while command := self._reader.gets():
            names += command
        self.writes.append(names)
        self.unread += names

    def read_response(self) -> bytes:
        assert self.may_answer.wait(10)
        if self.broken is not None:
            raise self.broken
        name = self.unread.pop(0)
        if name == b"bad":
            raise redis.ResponseError("bad")
        return name

    def disconnect(self) -> None:
        self.disconnected += 1
        self.unread.clear()


class FakeClient:
    def __init__(self) -> None:
        self.connection = FakeConnection()
        self.connection_pool = self

    def get_connection(self) -> FakeConnection:
        return self.connection


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


def line_over(connection: FakeConnection) -> SharedLine:
    client = FakeClient()
    client.connection = connection
    return SharedLine(cast("redis.Redis", client))


def test_who_comes_while_the_line_is_busy_shares_the_next_write(connection: FakeConnection) -> None:
    line = line_over(connection)
    names = [b"c%d" % index for index in range(8)]
    got: dict[bytes, bytes] = {}

    def call(index: int) -> None:
        if index:
            wait_until(lambda: connection.writes, "the first to write")
        if index == len(names):
            wait_until(lambda: len(line._waiting) == len(names) - 1, "all others to wait")
            connection.may_answer.set()
        else:
            got[names[index]] = line.call(names[index])

    in_threads(len(names) + 1, call)
    assert got == {name: name for name in names}
    assert len(connection.writes) == 2
    assert sorted(connection.writes[1]) == names[1:]


def test_an_error_is_told_to_its_own_caller_only(connection: FakeConnection) -> None:
    connection.may_answer.set()
    line = line_over(connection)
    with pytest.raises(redis.ResponseError):
        line.call(b"bad")
    assert line.call(b"good") == b"good"
    assert not connection.disconnected


def test_a_lost_connection_ends_what_was_under_way_and_nothing_else(connection: FakeConnection) -> None:
    connection.may_answer.set()
    connection.broken = redis.ConnectionError("gone")
    line = line_over(connection)
    with pytest.raises(redis.ConnectionError):
        line.call(b"a")
    assert connection.disconnected == 1
    connection.broken = None
    assert line.call(b"b") == b"b"


def test_who_is_stopped_while_it_leads_leaves_the_line_to_others(connection: FakeConnection) -> None:
    class Stopped(BaseException):
        pass

    connection.may_answer.set()
    connection.broken = cast("Exception", Stopped())
    line = line_over(connection)
    with pytest.raises(Stopped):
        line.call(b"a")
    connection.broken = None
    assert line.call(b"b") == b"b"


@pytest.mark.parametrize("chosen", [False, True])
def test_who_is_stopped_while_it_waits_is_passed_over(
    connection: FakeConnection, monkeypatch: pytest.MonkeyPatch, chosen: bool
) -> None:
    class Stopped(BaseException):
        pass

    wait = _Turn.wait

    def stopped(turn: _Turn) -> None:
        if chosen or turn.command != (b"c1",):
            wait(turn)
        if turn.command == (b"c1",):
            raise Stopped

    monkeypatch.setattr(_Turn, "wait", stopped)
    line = line_over(connection)
    got: list[bytes] = []

    def call(index: int) -> None:
        if index == 1:
            wait_until(lambda: connection.writes, "the first to write")
            with pytest.raises(Stopped):
                line.call(b"c1")
        elif index == 2:
            wait_until(lambda: connection.writes and len(line._waiting) == chosen, "the other to wait or to leave")
            got.append(line.call(b"c2"))
        elif index == 3:
            wait_until(lambda: len(line._waiting) == 1 + chosen, "all others to wait")
            connection.may_answer.set()
        else:
            got.append(line.call(b"c0"))

    in_threads(4, call)
    assert sorted(got) == [b"c0", b"c2"]
    assert line.call(b"again") == b"again"


@pytest.mark.integration
def test_a_line_that_redis_has_cut_is_made_anew(client: redis.Redis) -> None:
    line = SharedLine(client)
    number = line.call("CLIENT", "ID")
    client.client_kill_filter(_id=number)
    with pytest.raises(redis.ConnectionError):
        line.call("PING")
    assert line.call("PING") in (b"PONG", True)
