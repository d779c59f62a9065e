"""The terminal's side of a conversation, against a gateway of three lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy import chat, running
from deploy.errors import CommandError
from tasks.settings import Settings


@dataclass
class Gateway:
    """Answers every chat with `pieces`, and notes what it was sent."""

    url: str = ""
    pieces: list[bytes] = field(default_factory=list)
    status: int = 200
    models: list[str] = field(default_factory=lambda: ["demo", "light"])
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    hold: threading.Event | None = None
    """Awaited before the last piece of an answer."""


def frame(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    fake = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer([json.dumps({"data": [{"id": name} for name in fake.models]}).encode()])

        def do_POST(self) -> None:
            fake.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(fake.pieces, fake.hold)

        def _answer(self, pieces: list[bytes], hold: threading.Event | None = None) -> None:
            fake.keys.append(self.headers["Authorization"])
            self.send_response(fake.status)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    if hold and piece == DONE:
                        hold.wait(20)
                    self.wfile.write(piece)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the library
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


def talk(gateway: Gateway, typed: str, model: str | None = None, **options: Any) -> str:
    out = io.StringIO()
    chat.run(
        model, url=options.pop("url", gateway.url), key=options.pop("key", None), lines=io.StringIO(typed), out=out
    )
    return out.getvalue()


def test_each_line_is_a_turn_and_the_model_hears_what_was_said_before(gateway: Gateway) -> None:
    gateway.pieces = [b": ping\n\n", frame("Hel"), frame("lo."), b'data: {"choices": []}\n\n', DONE]
    assert talk(gateway, "hi\n\nagain\n") == "Hello.\nHello.\n"
    assert [body["model"] for body in gateway.bodies] == ["demo", "demo"]
    assert gateway.bodies[1]["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "again"},
    ]


def test_a_model_that_is_named_is_asked_with_the_key(gateway: Gateway) -> None:
    gateway.pieces = [DONE]
    talk(gateway, "hi\n", "light", key="sk-x", url=gateway.url + "/v1/")
    assert gateway.bodies[0]["model"] == "light"
    assert gateway.keys == ["Bearer sk-x"]


def test_a_refusal_is_one_line(gateway: Gateway) -> None:
    gateway.status = 404
    gateway.pieces = [
        b'{"error": {"message": "No such model.", "type": "x", "param": null, "code": "model_not_found"}}'
    ]
    with pytest.raises(CommandError, match=r"^No such model\. \(model_not_found\)$"):
        talk(gateway, "hi\n", "x")


def test_a_refusal_that_is_no_openai_error_is_told_by_its_status(gateway: Gateway) -> None:
    gateway.status = 502
    gateway.pieces = [b"<html>"]
    with pytest.raises(CommandError, match="answered 502 Bad Gateway"):
        talk(gateway, "hi\n", "x")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([frame("a")], "the answer broke off"),
        ([frame("a"), b'data: {"error": {"message": "The engine died."}}\n\n', DONE], r"The engine died\."),
        ([b"data: nonsense\n\n"], "does not speak the OpenAI API"),
    ],
)
def test_an_answer_that_fails_midway_says_so(gateway: Gateway, pieces: list[bytes], expected: str) -> None:
    gateway.pieces = pieces
    with pytest.raises(CommandError, match=expected):
        talk(gateway, "hi\n", "demo")


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(CommandError, match=r"http://127\.0\.0\.1:1 does not answer"):
        talk(Gateway(url="http://127.0.0.1:1"), "hi\n")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(CommandError, match="is no address"):
        talk(Gateway(url=url), "hi\n")


def test_a_gateway_without_models_is_said(gateway: Gateway) -> None:
    gateway.models = []
    with pytest.raises(CommandError, match="serves no model"):
        talk(gateway, "hi\n")


def test_ctrl_c_ends_the_answer_and_keeps_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def pieces() -> Iterator[str]:
        try:
            yield "Hel"
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    out = io.StringIO()
    assert chat.say(pieces(), out) == "Hel"  # type: ignore[arg-type]
    assert out.getvalue() == "Hel\n"
    assert closed


def test_the_gateway_that_runs_here_is_found(tmp_path: Path) -> None:
    settings = Settings.from_env({"CELERITY_STATE_DIR": str(tmp_path), "CELERITY_PORT": "8123"})
    assert chat.local_url(settings) == "http://127.0.0.1:8123"
    running.write(tmp_path, running.this_process(url="http://h:1", redis_url="r", models=Path("m")))
    assert chat.local_url(settings) == "http://h:1"


def test_at_a_terminal_ctrl_c_ends_the_answer_and_ctrl_d_the_conversation(gateway: Gateway) -> None:
    gateway.pieces = [frame("Hello."), DONE]
    gateway.hold = threading.Event()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "deploy", "chat", "--url", gateway.url]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, process_group=0)
    os.close(theirs)
    screen = Screen(ours)
    try:
        screen.wait_for("> ")
        assert "demo at http://127.0.0.1:" in screen.text
        os.write(ours, b"first\n")
        screen.wait_for("Hello.")
        process.send_signal(signal.SIGINT)  # the answer has not ended: the gateway holds its last piece back
        screen.wait_for("> ")
        gateway.hold.set()
        os.write(ours, b"second\n")
        screen.wait_for("Hello.")
        screen.wait_for("> ")
        gateway.status = 503
        os.write(ours, b"third\n")
        screen.wait_for("! the server answered 503")
        screen.wait_for("> ")
        os.write(ours, b"\x04")
        assert process.wait(20) == 0
    finally:
        gateway.hold.set()
        process.kill()
        process.wait()
        os.close(ours)
    said = [message["content"] for message in gateway.bodies[-1]["messages"]]
    assert said == ["first", "Hello.", "second", "Hello.", "third"]


class Screen:
    """What a terminal shows, read as it comes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._new = ""
        self.text = ""

    def wait_for(self, text: str) -> None:
        """Read on until `text` has come since the last wait."""
        while text not in self._new:
            ready, _, _ = select.select([self._descriptor], [], [], 20)
            assert ready, f"waited in vain for {text!r} in {self.text!r}"
            read = os.read(self._descriptor, 4096).decode()
            self._new += read
            self.text += read
        self._new = self._new.partition(text)[2]
