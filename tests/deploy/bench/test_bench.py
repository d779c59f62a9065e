"""`celerity bench` against a server that does as it is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy.cli import main
from tests.processes import HEARS_CTRL_C
from tests.waiting import wait_until

SCHEMA = (
    *("model", "url", "stream", "tokens", "concurrency", "rate", "requests", "answered_ever", "errors", "wall_s"),
    *(
        "client_cpu_s",
        "client_busy",
        "requests_per_s",
        "tokens_per_s",
        "ttft_ms",
        "gap_ms",
        "e2e_ms",
        "bytes",
        "longest_gap_ms",
    ),
)


def frame(**delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":4}}\n\n'
REFUSAL = b'{"error":{"message":"The queue is full.","type":"server_error","code":"queue_full"}}'


@dataclass
class Server:
    """Answers with `frames`. From the second request on, one in `every` is treated as `fault` says."""

    url: str = ""
    frames: list[bytes] = field(default_factory=lambda: [frame(content="a"), frame(content="b"), DONE])
    fault: str = ""
    every: int = 2
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    connections: int = 0
    hold: threading.Event | None = None
    """Awaited before the answers from the second on."""


@pytest.fixture
def server() -> Iterator[Server]:
    fake = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            fake.connections += 1

        def do_GET(self) -> None:
            self._whole(200, b'{"data": [{"id": "demo"}, {"id": "light"}]}')

        def do_POST(self) -> None:
            fake.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            fake.keys.append(self.headers["Authorization"])
            number = len(fake.bodies)
            if fake.bodies[-1]["model"] not in ("demo", "light"):
                self._whole(404, b'{"error":{"message":"No such model.","code":"model_not_found"}}')
            elif fake.fault and number > 1 and number % fake.every == 0:
                self._fail()
            else:
                if fake.hold and number > 1:
                    fake.hold.wait(20)
                if fake.bodies[-1]["stream"]:
                    self._stream(fake.frames)
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    self._whole(200, b'{"choices":[],"usage":{"completion_tokens":4}}')

        def _fail(self) -> None:
            if fake.fault == "refuse":
                self._whole(503, REFUSAL)
                return
            self._stream(fake.frames[:1])
            if fake.fault == "reset":
                # With a linger of no time, what the client sees is a RST.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(b"0\r\n\r\n")

        def _stream(self, frames: list[bytes]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in frames:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

        def _whole(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the library
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    http_server = Quiet(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{http_server.server_address[1]}"
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    http_server.shutdown()
    thread.join()
    http_server.server_close()


def bench(server: Server, *args: str, code: int = 0, **env: str) -> Result:
    clean = {name: None for name in os.environ if name.startswith("CELERITY_")}
    done = CliRunner().invoke(main, ["bench", server.url, *args], env={**clean, "OPENAI_API_KEY": None, **env})
    assert done.exit_code == code, done.output
    return done


def figures(server: Server, *args: str, code: int = 0, **env: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bench(server, "--json", "-", *args, code=code, **env).stdout)
    assert tuple(found) == SCHEMA
    return found


def test_a_closed_load_asks_as_often_as_it_is_told(server: Server) -> None:
    found = figures(server, "--requests", "40", "--concurrency", "4", "--warmup", "0")
    assert found["requests"] == 40
    assert found["errors"] == {}
    assert (found["model"], found["url"], found["concurrency"], found["rate"]) == ("demo", server.url, 4, None)
    assert found["requests_per_s"] == pytest.approx(40 / found["wall_s"], rel=0.01)
    assert found["tokens_per_s"] == pytest.approx(80 / found["wall_s"], rel=0.01)
    assert found["ttft_ms"]["p50"] <= found["e2e_ms"]["p99"]
    assert found["longest_gap_ms"] >= found["gap_ms"]["p50"]
    # One that tries, and the list of models; then each asks again on the connection that it has.
    assert len(server.bodies) == 41
    assert server.connections == 6


def test_an_open_load_asks_as_often_as_it_is_told(server: Server) -> None:
    found = figures(server, "--requests", "30", "--rate", "500", "--warmup", "0", "--model", "light")
    assert (found["requests"], found["rate"], found["concurrency"]) == (30, 500, None)
    assert {body["model"] for body in server.bodies} == {"light"}


def test_an_open_load_counts_from_when_it_was_to_ask(server: Server) -> None:
    """One connection at a time, and an answer that is held: all who wait behind it waited as long."""
    server.hold = threading.Event()
    threading.Timer(0.2, server.hold.set).start()
    found = figures(
        server, "--requests", "20", "--rate", "1000", "--concurrency", "1", "--warmup", "0", "--tokens", "2"
    )
    assert found["requests"] == 20
    assert server.connections == 3
    # Had they counted from when they were sent, all but the first would be answered at once.
    assert found["ttft_ms"]["p50"] > 100


def test_time_limits_a_load(server: Server) -> None:
    found = figures(server, "--seconds", "0.3", "--warmup", "0.1", "--concurrency", "2", "--no-stream")
    assert found["wall_s"] > 0
    assert found["requests"] > 0
    assert found["tokens_per_s"] == pytest.approx(4 * found["requests_per_s"], rel=0.01)
    assert (found["ttft_ms"], found["gap_ms"], found["longest_gap_ms"]) == (None, None, None)


def test_a_frame_counts_the_tokens_that_its_server_says(server: Server) -> None:
    server.frames = [frame(content="a b"), frame(content="c d"), USAGE, DONE]
    found = figures(server, "--requests", "10", "--warmup", "0")
    assert found["tokens_per_s"] == pytest.approx(40 / found["wall_s"], rel=0.01)
    assert server.bodies[-1]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("refuse", "503 queue_full"),
        ("reset", "connection reset"),
        ("cut", "stream ended without [DONE]"),
    ],
)
def test_errors_are_counted_by_kind(server: Server, fault: str, kind: str) -> None:
    server.fault = fault
    found = figures(server, "--requests", "10", "--concurrency", "1", "--warmup", "0")
    assert found["errors"] == {kind: 5}
    assert found["requests"] == 5


def test_the_table_says_what_failed(server: Server) -> None:
    server.fault = "refuse"
    said = bench(server, "--requests", "4", "--concurrency", "1", "--warmup", "0").output
    assert "to the first token" in said
    assert "2 × 503 queue_full" in said
    assert "2 requests failed" in said


def test_nothing_answered_well_is_a_failure(server: Server) -> None:
    server.fault, server.every = "refuse", 1
    found = figures(server, "--requests", "2", "--concurrency", "1", "--warmup", "0", code=1)
    assert found["requests"] == 0
    assert found["e2e_ms"] is None


def test_the_key_comes_from_the_environment_or_a_file(server: Server, tmp_path: Path) -> None:
    short = ("--requests", "1", "--warmup", "0")
    bench(server, *short, OPENAI_API_KEY="one")
    bench(server, *short, OPENAI_API_KEY="one", CELERITY_API_KEY="two")
    (tmp_path / "key").write_text("three\n")
    bench(server, *short, "--key-file", str(tmp_path / "key"), CELERITY_API_KEY="two")
    assert server.keys == [f"Bearer {key}" for key in ("one", "one", "two", "two", "three", "three")]
    (tmp_path / "key").write_text("a key\nand another")
    assert "one API key" in bench(server, *short, "--key-file", str(tmp_path / "key"), code=1).output
    assert "cannot be read" in bench(server, *short, "--key-file", str(tmp_path / "none"), code=1).output


def test_what_cannot_be_asked_is_said_once(server: Server) -> None:
    said = bench(server, "--model", "other", code=1).output
    assert "No such model. (model_not_found)" in said
    assert "serves demo, light" in said
    assert len(server.bodies) == 1
    assert "not both" in bench(server, "--seconds", "1", "--requests", "1", code=1).output
    assert "is no address" in bench(Server("nowhere"), code=1).output
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = Server(f"http://127.0.0.1:{probe.getsockname()[1]}")
        assert "does not answer" in bench(nobody, "--model", "m", code=1).output


def test_it_can_be_told_not_to_try_first(server: Server) -> None:
    found = figures(server, "--requests", "2", "--warmup", "0", "--no-check", "--model", "other", code=1)
    assert found["errors"] == {"404 model_not_found": 2}


def test_a_server_that_is_not_there_is_not_waited_for() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = Server(f"http://127.0.0.1:{probe.getsockname()[1]}")
        args = ("--no-check", "--model", "m", "--requests", "3", "--concurrency", "1", "--warmup", "0")
        for more in ((), ("--rate", "100")):
            found = figures(nobody, *args, *more, code=1)
            assert found["errors"] == {"cannot connect: Connection refused": 3}


def test_ctrl_c_shows_what_there_is(server: Server, tmp_path: Path) -> None:
    command = [*HEARS_CTRL_C, sys.executable, "-m", "deploy", "bench", server.url, "--seconds", "60", "--warmup", "0"]
    command += ["--json", str(tmp_path / "found.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(server.bodies) > 20, "some answers")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "between tokens" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["requests"] > 0
    assert found["errors"] == {}


def test_no_answer_in_time_is_an_error(server: Server) -> None:
    server.hold = threading.Event()
    args = ("--requests", "3", "--concurrency", "3", "--warmup", "0", "--timeout", "0.1")
    found = figures(server, *args, code=1)
    server.hold.set()
    assert found["errors"] == {"no answer in time": 3}
