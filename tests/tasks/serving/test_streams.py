"""The writer of answers, against a Redis that does what it is told: order, repeats, fencing, loss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
import redis

from tasks import keys
from tasks.messages import Delta, Done, Event, Failed, Fields, encode_event
from tasks.serving.outlet import Loss, Outlet
from tasks.serving.streams import GIVE_UP_S, StreamWriter


class FakeRedis:
    """Keeps streams as Redis does: increasing ids only, and none that does not stand."""

    def __init__(self) -> None:
        self.streams: dict[str, list[tuple[str, bytes]]] = {"celerity:stream:r": [("1-0", b"started")]}
        self.other: list[tuple[Any, ...]] = []
        self.lose_replies = 0
        self.full = False
        self.knows_no_scripts = False
        self.refuse_once: str | None = None
        self.round_trips = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def all(self, commands: list[tuple[Any, ...] | bytes]) -> list[object]:
        await self.gate.wait()
        self.round_trips += 1
        replies = [self._one(unpacked(it) if isinstance(it, bytes) else it) for it in commands]
        if self.lose_replies:
            self.lose_replies -= 1
            raise redis.ConnectionError("the reply was lost")
        return replies

    def _one(self, command: tuple[Any, ...]) -> object:
        if command[0] == self.refuse_once:
            self.refuse_once = None
            return redis.ResponseError("NOREPLICAS Not enough good replicas to write.")
        if command[0] == "XREVRANGE":
            return [(record_id.encode(), {}) for record_id, _ in self.streams.get(command[1], [])[-1:]]
        if command[0] != "XADD":
            if command[0] == "EVALSHA" and self.knows_no_scripts:
                return redis.exceptions.NoScriptError("NOSCRIPT No matching script.")
            # Of a script, whose text or name stands second, what it is given.
            self.other.append(("finish", *command[2:]))
            return 1
        return self._xadd(command)

    def _xadd(self, command: tuple[Any, ...]) -> object:
        _, key, option, record_id, _, kind, *rest = command
        assert option == "NOMKSTREAM"
        if self.full:
            # As redis-py reports it: without the word OOM.
            return redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        if key not in self.streams:
            return None
        last = tuple(map(int, self.streams[key][-1][0].split("-")))
        if tuple(map(int, record_id.split("-"))) <= last:
            return redis.ResponseError("The ID specified in XADD is equal or smaller than the target stream top item")
        self.streams[key].append((record_id, rest[1] if kind == b"delta" else kind))
        return record_id.encode()


def unpacked(command: bytes) -> tuple[Any, ...]:
    reader = hiredis.Reader()
    reader.feed(command)
    name, key, option, record_id, *fields = reader.gets()
    assert not reader.has_data()
    return name.decode(), key.decode(), option.decode(), record_id.decode(), *fields


def said(outlet: Outlet) -> tuple[str, str, Fields]:
    """Return the stream, the id and the fields of the one record that `outlet` has to write."""
    (record,) = outlet.take()
    _, key, option, record_id, *fields = unpacked(record.command)
    assert option == "NOMKSTREAM"
    return key, record_id, dict(zip(fields[::2], fields[1::2], strict=True))


def written(server: FakeRedis) -> list[tuple[str, bytes]]:
    return server.streams["celerity:stream:r"][1:]


def scenario(play: Any) -> FakeRedis:
    async def main() -> FakeRedis:
        server = FakeRedis()
        writer = StreamWriter(server, "w")  # type: ignore[arg-type]  # the fake has what the writer uses of a line
        running = asyncio.create_task(writer.run())
        try:
            await play(server, writer)
        finally:
            running.cancel()
        return server

    return asyncio.run(main())


def opened(lost: list[Loss] | None = None, attempt: int = 1, keep_s: int = 0) -> Outlet:
    return Outlet("r", attempt, lost=(lost if lost is not None else []).append, keep_s=keep_s)


@pytest.mark.parametrize(
    "event",
    [
        Delta(b"data: a\n\n", b"12"),
        Delta(b"", b""),
        Delta("data: \u20ac\r\n\n".encode(), b"x\ny"),
        Delta(b"a", None),
        Done(),
    ],
)
def test_a_record_says_what_its_event_says(event: Event) -> None:
    outlet = opened(attempt=1_700_000_000_000)
    outlet._number(event)
    assert said(outlet) == (keys.stream("r"), "1700000000000-1", encode_event(event))


def test_records_are_numbered_under_their_attempt_and_end_once() -> None:
    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        outlet = opened()
        writer.delta(outlet, b"a")
        await asyncio.sleep(0)
        await writer.end(outlet, Done())
        writer.delta(outlet, b"too late")

    server = scenario(play)
    assert [record_id for record_id, _ in written(server)] == [f"1-{n + 1}" for n in range(len(written(server)))]
    assert written(server)[-1][1] == b"done"
    assert [command[0] for command in server.other] == ["finish"]


def test_what_comes_while_a_write_is_on_its_way_goes_together_into_the_next() -> None:
    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        outlet = opened()
        server.gate.clear()
        writer.delta(outlet, b"a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for text in (b"b", b"c", b"d"):
            writer.delta(outlet, text)
        server.gate.set()
        await writer.end(outlet, Done())

    server = scenario(play)
    assert written(server) == [("1-1", b"a"), ("1-2", b"bcd"), ("1-3", b"done")]
    assert server.round_trips == 2


def test_a_write_whose_reply_was_lost_is_repeated_without_harm() -> None:
    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        outlet = opened()
        server.lose_replies = 1
        writer.delta(outlet, b"a")
        await writer.end(outlet, Done())

    assert [kind for _, kind in written(scenario(play))] == [b"a", b"done"]


def test_a_worker_whose_call_was_given_to_another_is_shut_out() -> None:
    lost: list[Loss] = []

    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        outlet = opened(lost)
        server.streams["celerity:stream:r"].append(("2-0", b"started"))
        writer.delta(outlet, b"stale")
        await writer.end(outlet, Done())

    server = scenario(play)
    assert lost == [Loss.GONE]
    assert written(server) == [("2-0", b"started")]


def test_a_cancelled_stream_is_not_made_anew() -> None:
    lost: list[Loss] = []

    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        outlet = opened(lost)
        del server.streams["celerity:stream:r"]
        writer.delta(outlet, b"for nobody")
        await writer.end(outlet, Done())

    server = scenario(play)
    assert lost == [Loss.GONE]
    assert server.streams == {}


def test_a_kept_request_is_marked_as_ended_and_stays() -> None:
    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        await writer.end(opened(keep_s=600), Failed("engine_failed", "why"))

    server = scenario(play)
    assert [command[0] for command in server.other] == ["finish"]
    assert server.other[0][-5:-1] == ("1", "r", "failed", 600)


def test_a_redis_that_knows_no_script_is_given_it() -> None:
    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        server.knows_no_scripts = True
        await writer.end(opened(), Done())

    server = scenario(play)
    assert [command[0] for command in server.other] == ["finish"]
    assert [kind for _, kind in written(server)] == [b"done"]


def test_trails_travel_with_their_frames_until_the_engine_ends_them() -> None:
    outlet = opened()
    outlet.add(b"a", b"7")
    outlet.add(b"b", b"8 9")
    assert said(outlet)[2] == encode_event(Delta(b"ab", b"7\n8 9"))
    outlet.written()
    outlet.add(b"c", None)
    outlet.add(b"d", b"10")
    assert said(outlet)[2] == encode_event(Delta(b"cd", None))


def test_a_redis_that_went_back_in_time_gives_the_call_to_another_worker() -> None:
    lost: list[Loss] = []

    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        outlet = opened(lost)
        for text in (b"a", b"b"):
            writer.delta(outlet, text)
            await until(lambda: not outlet.frames and not outlet.unsent)
        server.streams["celerity:stream:r"].pop()
        server.lose_replies = 1
        server.full = True
        writer.delta(outlet, b"c")
        await outlet.sent.wait()

    scenario(play)
    assert lost == [Loss.BEHIND]


def test_what_a_full_redis_refuses_is_written_once_there_is_room() -> None:
    lost: list[Loss] = []

    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        outlet = opened(lost)
        server.full = True
        writer.delta(outlet, b"a")
        await until(lambda: server.round_trips > 1)
        server.full = False
        await writer.end(outlet, Done())

    server = scenario(play)
    assert lost == []
    assert written(server) == [("1-1", b"a"), ("1-2", b"done")]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is the writer's own business and sets no event
            await asyncio.sleep(0)


def test_an_end_that_was_half_written_is_written_again() -> None:
    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        server.refuse_once = "EVALSHA"
        await writer.end(opened(keep_s=600), Done())

    server = scenario(play)
    assert [command[0] for command in server.other].count("finish") == 1
    assert [kind for _, kind in written(server)] == [b"done"]


def test_what_the_reader_removed_after_its_end_is_not_lost() -> None:
    lost: list[Loss] = []

    async def play(server: FakeRedis, writer: StreamWriter) -> None:
        first, second = opened(lost), Outlet("s", 1, lost=lost.append)
        server.streams["celerity:stream:s"] = [("1-0", b"started")]
        first.end = Done()
        first.take()
        first.written()
        del server.streams["celerity:stream:r"]
        server.lose_replies = 1
        writer.delta(second, b"a")
        writer._touch(first)
        await writer.end(second, Done())

    scenario(play)
    assert lost == []
