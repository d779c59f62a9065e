"""The whole path over HTTP: gunicorn, Redis, an engine worker on the simulated engine."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

import psutil
import pytest

from tests.stack import GatewayProcess, Stack, Worker, in_threads
from tests.waiting import wait_until
from workers.engine.sim import tag_of, token

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def gateway(running: Stack, sim: Worker) -> GatewayProcess:
    return running.gateway()


@pytest.fixture(scope="module")
def slow(running: Stack) -> Worker:
    return running.worker("slow")


def body(text: str, *, stream: bool, model: str = "sim", tokens: int = 8) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, "stream": stream, "max_tokens": tokens}).encode()


def post(connection: http.client.HTTPConnection, content: bytes, path: str = "/v1/chat/completions") -> Any:
    connection.request("POST", path, content, {"Content-Type": "application/json"})
    return connection.getresponse()


def expected(text: str, tokens: int) -> str:
    return "".join(token(tag_of(text), index) for index in range(tokens))


def streamed_text(raw: bytes) -> str:
    assert raw.endswith(b"data: [DONE]\n\n")
    chunks = [json.loads(frame[6:]) for frame in raw.split(b"\n\n")[:-2] if frame.startswith(b"data: ")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_a_stream_arrives_whole(gateway: GatewayProcess) -> None:
    connection = gateway.connect()
    response = post(connection, body("hello", stream=True))
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"].startswith("req_")
    assert streamed_text(response.read()) == expected("hello", 8)
    connection.close()


def test_an_answer_in_one_piece_arrives_whole(gateway: GatewayProcess) -> None:
    connection = gateway.connect()
    response = post(connection, body("hello", stream=False))
    answer = json.loads(response.read())
    assert answer["choices"][0]["message"]["content"] == expected("hello", 8)
    assert answer["usage"]["completion_tokens"] == 8
    connection.close()


def test_five_hundred_streams_of_two_gateways_never_mix(running: Stack, gateway: GatewayProcess) -> None:
    gateways = [gateway, running.gateway()]

    def client(index: int) -> None:
        connections = [one.connect() for one in gateways]
        for turn in range(10):
            text = f"user {index} turn {turn}"
            response = post(connections[(index + turn) % 2], body(text, stream=True, tokens=20))
            assert response.status == 200
            assert streamed_text(response.read()) == expected(text, 20)
        for connection in connections:
            connection.close()

    in_threads(50, client)


def test_an_unknown_model_is_not_found_and_leaves_no_trace(running: Stack, gateway: GatewayProcess) -> None:
    connection = gateway.connect()
    response = post(connection, body("hello", stream=False, model="../../etc/passwd"))
    assert response.status == 404
    assert json.loads(response.read())["error"]["code"] == "model_not_found"
    client = running.client()
    assert not list(client.scan_iter("*passwd*"))
    client.close()
    connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_frees_the_seat_and_the_queue(
    running: Stack, gateway: GatewayProcess, slow: Worker, stream: bool
) -> None:
    sockets = []
    for index in range(3):  # two seats: the third waits in the queue
        connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
        content = body(f"hang {index}", stream=stream, model="slow", tokens=10_000)
        head = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
        head += [f"Content-Length: {len(content)}", "", ""]
        connection.sendall("\r\n".join(head).encode() + content)
        sockets.append(connection)
    wait_until(lambda: running.taken() == 2 and running.waiting("slow") == 1, "two to run and one to wait")
    for connection in sockets:
        connection.close()
    wait_until(lambda: running.taken() == 0 and running.waiting("slow") == 0, "everything to be free again")


def test_a_full_queue_is_503_with_a_time_to_come_back(running: Stack, gateway: GatewayProcess) -> None:
    connections = [gateway.connect() for _ in range(3)]
    content = body("x", stream=False, model="nobody")
    for connection in connections[:2]:
        connection.request("POST", "/v1/chat/completions", content, {"Content-Type": "application/json"})
    wait_until(lambda: running.waiting("nobody") == 2, "two calls to wait")
    response = post(connections[2], content)
    assert response.status == 503
    assert int(response.headers["retry-after"]) >= 1
    assert json.loads(response.read())["error"]["code"] == "server_overloaded"
    for connection in connections:
        connection.close()
    wait_until(lambda: running.waiting("nobody") == 0, "the callers that left to be taken out of the queue")


def test_a_gateway_told_to_stop_lets_its_streams_end(running: Stack, slow: Worker) -> None:
    gateway = running.gateway()
    connection = gateway.connect()
    response = post(connection, body("drain", stream=True, model="slow", tokens=100))
    assert response.read(6) == b"data: "
    gateway.process.terminate()
    rest = response.read()
    assert streamed_text(b"data: " + rest) == expected("drain", 100)
    assert gateway.process.wait(30) == 0
    connection.close()


def test_a_killed_gateways_requests_are_aborted(running: Stack, slow: Worker) -> None:
    gateway = running.gateway()
    connection = gateway.connect()
    response = post(connection, body("kill", stream=True, model="slow", tokens=10_000))
    assert response.read(6) == b"data: "
    family = psutil.Process(gateway.process.pid)
    for process in [*family.children(recursive=True), family]:
        process.kill()
    gateway.process.wait(10)
    wait_until(lambda: running.taken() == 0, "the worker to notice", timeout_s=30)
    connection.close()
