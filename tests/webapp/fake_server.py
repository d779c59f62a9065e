"""A real gunicorn with our worker and settings, over a fake queue: run as a process of its own.

What the queue does is the text of the last message: `say N` streams N frames, `hang`
never starts, `stall` says one frame and no more, `flood` never stops.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask

from tasks import logs
from tasks.errors import RequestCancelledError
from tasks.messages import Call, Delta, Done, Event, Started
from tasks.requests.inbox import Forward, Inbox
from tasks.settings import Settings
from tests.fakes import FakeAnswer, FakeDispatcher, FakeRegistries
from tests.waiting import wait_until
from tests.webapp.conftest import REGISTRY
from webapp.app import create_app

REPOSITORY = Path(__file__).parent.parent.parent


class FloodingAnswer(FakeAnswer):
    """Never stops talking, and never lets two pieces be joined."""

    def next(self, timeout_s: float, forward: Forward | None = None) -> Event | None:
        if self.abandoned:
            raise RequestCancelledError("abandoned")
        return Delta(b"data: " + b"x" * 65_536 + b"\n\n") if timeout_s else None


class FedAnswer(FakeAnswer):
    """Comes as answers from Redis do: through an inbox, into which somebody else puts piece by piece."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__(())
        self.refused = 0
        """How often the client could not take all that was forwarded."""
        self.forwarded = 0
        self._pieces = pieces
        self._inbox = Inbox("r")
        threading.Thread(target=self._feed, daemon=True).start()

    def _feed(self) -> None:
        self._inbox.take([("1-0", Started("r", 1))])
        for number, piece in enumerate(self._pieces, start=1):
            if self.abandoned or self.closed:
                return
            # What nobody has looked at yet is not forwarded.
            self._inbox.take([(f"1-{number}", Delta(piece))])
            time.sleep(0)
        self._inbox.take([(f"1-{number + 1}", Done(body=b"{}"))])

    def next(self, timeout_s: float, forward: Forward | None = None) -> Event | None:
        event = self._inbox.get(timeout_s, forward and self._counting(forward))
        if self.abandoned:
            raise RequestCancelledError("abandoned")
        self.ended = isinstance(event, Done)
        return event

    def _counting(self, forward: Forward) -> Forward:
        def counting(frames: bytes) -> bool:
            self.forwarded += 1
            took = forward(frames)
            self.refused += not took
            return took

        return counting

    def abandon(self) -> None:
        super().abandon()
        self._inbox.abandon()


def frame(index: int) -> bytes:
    return b'data: {"i":%d}\n\n' % index


def big_frame(index: int) -> bytes:
    return b"data: %d %b\n\n" % (index, b"x" * 65_536)


def play(call: Call) -> FakeAnswer:
    doing, _, count = json.loads(call.body)["messages"][-1]["content"].partition(" ")
    if doing == "flood":
        return FloodingAnswer(())
    if doing == "feed":
        return FedAnswer(frame(i) for i in range(int(count)))
    if doing == "pour":
        return FedAnswer(big_frame(i) for i in range(int(count)))
    script: Iterable[Event] = ()
    if doing == "say":
        script = [
            Started("r", 1),
            *(Delta(frame(i)) for i in range(int(count))),
            Done(body=b'{"said":%d}' % int(count)),
        ]
    elif doing == "stall":
        script = [Started("r", 1), Delta(frame(0))]
    return FakeAnswer(deque(script))


def create() -> Flask:
    """Build the application; `/answers` tells what became of each call."""
    settings = Settings.from_env()
    logs.configure(settings.log_level)
    dispatcher = FakeDispatcher(play=play)
    app = create_app(settings, FakeRegistries(REGISTRY), dispatcher)

    @app.get("/answers")
    def answers() -> list[dict[str, Any]]:
        pairs = zip(dispatcher.calls, dispatcher.answers, strict=True)
        return [
            {
                "text": json.loads(call.body)["messages"][-1]["content"],
                "abandoned": answer.abandoned,
                "cancelled": answer.cancelled,
                "closed": answer.closed,
                "forwarded": getattr(answer, "forwarded", 0),
                "refused": getattr(answer, "refused", 0),
            }
            for call, answer in pairs
        ]

    return app


@dataclass
class FakeServer:
    """The process, seen from the test."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    log: Path

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=20)

    def exchange(self, raw: bytes) -> bytes:
        """Send `raw` on a connection of its own and return everything until the server closes it."""
        with self.connect() as sock:
            sock.sendall(raw)
            return read_all(sock)

    def get(self, path: str, *headers: str) -> bytes:
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
        return self.exchange("\r\n".join(lines).encode()).partition(b"\r\n\r\n")[2]

    def answer_to(self, text: str) -> dict[str, Any]:
        """Return what became of the call with that text; empty before it was made."""
        found: list[dict[str, Any]] = [a for a in json.loads(self.get("/answers")) if a["text"] == text]
        return found[-1] if found else {}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def serve(folder: Path, **settings: str) -> Iterator[FakeServer]:
    """Run a server until the block ends. `settings` are the names of variables without their prefix."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        log = folder / "gateway.log"
        config = REPOSITORY / "deploy" / "gunicorn.conf.py"
        command = [sys.executable, "-m", "gunicorn", "-c", str(config), "--bind", f"fd://{listener.fileno()}"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "tests.webapp.fake_server:create()"],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                pass_fds=[listener.fileno()],
                env=os.environ
                | {"CELERITY_STATE_DIR": str(folder)}
                | {f"CELERITY_{name}": value for name, value in settings.items()},
            )
        server = FakeServer(process, listener.getsockname(), log)
    try:
        wait_until(lambda: b"drain_timeout" in log.read_bytes() or b"Booting worker" in log.read_bytes(), "gunicorn")
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def request(text: str, *headers: str, stream: bool = True, version: str = "1.1", close: bool = True) -> bytes:
    body = json.dumps({"model": "demo", "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()
    return post(body, *headers, version=version, close=close)


def post(body: bytes, *headers: str, version: str = "1.1", close: bool = True, length: int | None = None) -> bytes:
    lines = [f"POST /v1/chat/completions HTTP/{version}", "Host: x", "Content-Type: application/json", *headers]
    if not any(header.startswith("Transfer-Encoding") for header in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def read_all(sock: socket.socket) -> bytes:
    """Read until the server closes."""
    data = bytearray()
    while piece := sock.recv(65_536):
        data += piece
    return bytes(data)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    data = bytearray()
    while end not in data:
        piece = sock.recv(65_536)
        assert piece, f"the connection ended before {end!r}: {bytes(data)!r}"
        data += piece
    return bytes(data)
