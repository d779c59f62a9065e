"""A worker's line to a real Redis: one write a turn, replies in order, and what is asked when it is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis

from tasks.connections import async_client
from tasks.serving import line as lines
from tasks.serving.line import Line
from tests.serving_line import client_and_line
from tests.stack import RedisServer

pytestmark = pytest.mark.integration


def on(url: str, play: Callable[[Line], Awaitable[None]]) -> None:
    async def main() -> None:
        async with client_and_line(url) as (_, line):
            await play(line)

    asyncio.run(main())


def test_what_is_asked_first_leaves_at_once(server: RedisServer) -> None:
    async def play(line: Line) -> None:
        await line.ask("PING")
        before = line.writes
        asking = asyncio.ensure_future(line.ask("PING"))
        await asyncio.sleep(0)
        assert line.writes == before + 1
        assert await asking == b"PONG"

    on(server.url, play)


def test_what_else_is_asked_in_one_turn_leaves_in_one_write(server: RedisServer, client: redis.Redis) -> None:
    async def play(line: Line) -> None:
        await line.ask("PING")
        before = line.writes
        replies = await asyncio.gather(
            *(line.ask("ECHO", str(n)) for n in range(50)), line.all([("SET", "a", b"\x00\r\n"), ("GET", "a")])
        )
        assert replies == [*(str(n).encode() for n in range(50)), [b"OK", b"\x00\r\n"]]
        assert line.writes == before + 2  # the first of all, and the others

    on(server.url, play)


def test_nothing_is_asked_for_no_commands(server: RedisServer) -> None:
    async def play(line: Line) -> None:
        assert await line.all([]) == []
        assert line.writes == 0

    on(server.url, play)


def test_an_answer_larger_than_a_read_arrives_whole(server: RedisServer, client: redis.Redis) -> None:
    large = os.urandom(3_000_000)

    async def play(line: Line) -> None:
        await line.ask("SET", "a", large)
        assert await line.all([("GET", "a"), ("PING",)]) == [large, b"PONG"]

    on(server.url, play)


def test_a_refused_command_fails_alone(server: RedisServer, client: redis.Redis) -> None:
    async def play(line: Line) -> None:
        bad, good = await line.all([("LPUSH", "a"), ("PING",)])
        assert isinstance(bad, redis.ResponseError)
        assert good == b"PONG"
        with pytest.raises(redis.exceptions.NoScriptError):
            await line.ask("EVALSHA", "0" * 40, 0)

    on(server.url, play)


def test_who_is_cancelled_takes_nobody_else_s_reply(server: RedisServer, client: redis.Redis) -> None:
    async def play(line: Line) -> None:
        await line.ask("PING")
        asking = asyncio.ensure_future(line.ask("ECHO", "cancelled"))
        await asyncio.sleep(0)
        asking.cancel()
        assert await line.ask("ECHO", "next") == b"next"
        assert asking.cancelled()

    on(server.url, play)


def test_everybody_who_waits_hears_of_a_loss_and_the_next_command_opens_it_again(
    server: RedisServer, client: redis.Redis
) -> None:
    async def play(line: Line) -> None:
        number = await line.ask("CLIENT", "ID")
        waiting = [asyncio.ensure_future(line.ask("BRPOP", f"nothing{n}", 0)) for n in range(3)]
        await asyncio.sleep(0)
        await asyncio.to_thread(client.execute_command, "CLIENT", "KILL", "ID", number)
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, redis.ConnectionError)
        assert await line.ask("CLIENT", "ID") > number

    on(server.url, play)


def test_a_redis_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "COMMAND_TIMEOUT_S", 0.2)
    own = RedisServer(tmp_path)
    own.start()
    assert own.process is not None
    pid = own.process.pid

    async def play(line: Line) -> None:
        await line.ask("PING")
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(redis.TimeoutError):
                await line.ask("PING")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await line.ask("PING") == b"PONG"

    try:
        on(own.url, play)
    finally:
        own.kill()


def test_without_a_redis_it_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        client = async_client(f"unix://{tmp_path / 'nobody.sock'}")
        line = Line(client)
        with pytest.raises((redis.ConnectionError, OSError)):
            await line.ask("PING")
        await line.close()
        await client.aclose()

    asyncio.run(main())
