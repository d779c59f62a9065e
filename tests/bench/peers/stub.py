"""A stub engine: the least that answers the OpenAI chat API, so that what stands in front of it is measured.

`python -m tests.bench.peers.stub --model instant=0 --model paced=2` listens on a free
loopback port, prints it, and gives each model's tokens at so many milliseconds apiece
(0: one after the other without a pause). Every token is one write, as an engine that
steps writes one. It reads no prompt and checks no key.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

import uvloop

from tests.bench.peers import stub_answers
from tests.bench.peers.stub_answers import Asked, Frames


class StubProtocol(asyncio.Protocol):
    """One connection: requests one after the other, each answered before the next is looked at."""

    def __init__(self, pace_s: dict[str, float]) -> None:
        self._pace_s = pace_s
        self._loop = asyncio.get_running_loop()
        self._unread = bytearray()
        self._transport: asyncio.Transport | None = None
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own class, which is not registered as one of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._read()

    def _read(self) -> None:
        """Answer the requests that are there in full."""
        while not self._answering and (end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._unread[:end])
            length = _content_length(head)
            if len(self._unread) < end + 4 + length:
                return
            body = bytes(self._unread[end + 4 : end + 4 + length])
            del self._unread[: end + 4 + length]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        match head.split(b"\r\n", 1)[0].split(b" "):
            case b"POST", b"/v1/chat/completions", _:
                self._chat(body)
            case b"GET", b"/v1/models", _:
                self._write(stub_answers.models(list(self._pace_s)))
            case b"GET", b"/health", _:
                self._write(stub_answers.response(200, {}))
            case _, _, b"HTTP/1.1":
                self._write(stub_answers.refusal(404, "not found"))
            case _:
                # Routers also try whether it speaks HTTP/2.
                self._write(stub_answers.refusal(400, "HTTP/1.1 is spoken here"))

    def _chat(self, body: bytes) -> None:
        try:
            asked = stub_answers.asked(body)
            pace_s = self._pace_s[asked.model]
        except (ValueError, KeyError, TypeError, AttributeError):
            self._write(stub_answers.refusal(400, "a body of JSON with a model and max_tokens is needed"))
            return
        self._answering = True
        now = self._loop.time()
        if asked.stream:
            frames = Frames(asked)
            self._write(stub_answers.STREAM_HEAD + frames.role())
            self._token(frames, asked, 0, now, pace_s)
        else:
            self._at(now + pace_s * (asked.tokens - 1), self._whole, asked)

    def _token(self, frames: Frames, asked: Asked, index: int, due: float, pace_s: float) -> None:
        """Write the token and appoint the next; a late one does not make the others later."""
        if self._transport is None:
            return
        self._write(frames.token(index))
        if index + 1 < asked.tokens:
            self._at(due + pace_s, self._token, frames, asked, index + 1, due + pace_s, pace_s)
        else:
            self._write(frames.end())
            self._answered()

    def _whole(self, asked: Asked) -> None:
        self._write(stub_answers.whole(asked))
        self._answered()

    def _answered(self) -> None:
        self._answering = False
        self._read()

    def _at(self, due: float, call: Callable[..., None], *args: Any) -> None:
        if due <= self._loop.time():
            self._loop.call_soon(call, *args)
        else:
            self._loop.call_at(due, call, *args)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


async def serve(pace_s: dict[str, float], port: int) -> None:
    """Print the port once it listens, and answer for ever."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: StubProtocol(pace_s), "127.0.0.1", port, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def paces(entries: Iterable[str]) -> dict[str, float]:
    """Return seconds a token by model, of entries such as `paced=2`."""
    return {name: float(ms) / 1000 for name, _, ms in (entry.partition("=") for entry in entries)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers.stub", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=MS", help="and how long a token takes")
    options = parser.parse_args()
    uvloop.run(serve(paces(options.model), options.port))


if __name__ == "__main__":
    main()
