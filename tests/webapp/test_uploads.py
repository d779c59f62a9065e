"""Uploads on a real connection: slow clients, those that leave, bodies without a length; into the real ledger."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from tests.webapp.fake_server import FakeServer, read_all, read_until, request, serve
from webapp.connection import ClientConnection, ConnectionLimits

LIMIT = 300_000
HEAD = (
    b'--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
)
END = b"\r\n--xyz--\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    settings = {"BODY_TIMEOUT_S": "1", "UPLOAD_TIMEOUT_S": "2", "MAX_FILE_BYTES": str(LIMIT), "MAX_BODY_BYTES": "1000"}
    with serve(tmp_path_factory.mktemp("gateway"), **settings) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(server: FakeServer) -> Iterator[None]:
    """After every misuse no upload lies about, the gateway serves on, and nothing went wrong in it."""
    yield
    wait_until(lambda: uploads(server) == [], "the uploads to be swept up")
    assert b"[DONE]" in server.exchange(request("say 1"))
    assert '"exception"' not in server.log.read_text()


def uploads(server: FakeServer) -> list[Path]:
    return list((server.log.parent / "bulk" / "files" / "uploads").glob("*"))


def listed(server: FakeServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(server.get("/v1/files"))["data"]
    return found


def head(*headers: str) -> bytes:
    lines = ["POST /v1/files HTTP/1.1", "Host: x", "Content-Type: multipart/form-data; boundary=xyz", *headers, "", ""]
    return "\r\n".join(lines).encode()


def post(content: bytes, *headers: str) -> bytes:
    body = HEAD + content + END
    return head(f"Content-Length: {len(body)}", *headers) + body


def chunked(*chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return head("Transfer-Encoding: chunked", "Connection: close") + framed + b"0\r\n\r\n"


def outcome(answer: bytes) -> tuple[int, Any]:
    """Return the status, and the error's code or the size of the file."""
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    return int(answer.split(b" ", 2)[1]), body["error"]["code"] if "error" in body else body["bytes"]


def test_an_upload_leaves_its_connection_for_more(server: FakeServer) -> None:
    with server.connect() as sock:
        for _ in range(2):
            sock.sendall(post(b"x" * 200_000))
            assert b'"bytes":200000' in read_until(sock, b'"status_details":null}')


def test_a_body_without_a_length_is_taken_in_too(server: FakeServer) -> None:
    assert outcome(server.exchange(chunked(HEAD, *[b"x" * 10_000] * 20, END))) == (200, 200_000)


@pytest.mark.parametrize(
    ("raw", "refusal"),
    [
        (chunked(HEAD, *[b"x" * 10_000] * 40, END), (413, "request_too_large")),
        (chunked(HEAD, b"x" * 10_000), (400, "invalid_request")),
        (chunked(HEAD, b"x")[:-9] + b"zz\r\n", (400, "invalid_request")),
        (head("Content-Length: 99999999"), (413, "request_too_large")),
        (post(b"x", "Content-Encoding: gzip"), (415, "unsupported_media_type")),
        (head("Content-Length: 1000") + b"x" * 1000, (400, "invalid_request")),
        (
            head("Content-Length: 300000") + HEAD.replace(b"batch", b"vision") + b"x" * 100,
            (400, "unsupported_parameter"),
        ),
    ],
)
def test_what_cannot_be_a_file_is_refused(server: FakeServer, raw: bytes, refusal: tuple[int, str]) -> None:
    before = len(listed(server))
    with server.connect() as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        assert outcome(read_all(sock)) == refusal
    assert len(listed(server)) == before


def test_a_client_that_falls_silent_is_told_so(server: FakeServer) -> None:
    assert outcome(server.exchange(head("Content-Length: 100000") + HEAD + b"x")) == (408, "request_timeout")


def test_a_client_that_never_comes_to_an_end_is_told_so(server: FakeServer) -> None:
    """It is never silent for long, and the whole of it takes too long all the same."""
    with server.connect() as sock:
        sock.sendall(head("Content-Length: 100000") + HEAD)
        sock.settimeout(0.1)
        answer = b""
        while not answer:
            sock.sendall(b"x")
            try:
                answer = sock.recv(65_536)
            except TimeoutError:
                continue
        assert outcome(answer) == (408, "request_timeout")


def test_a_client_that_leaves_leaves_nothing_behind(server: FakeServer) -> None:
    before = len(listed(server))
    with server.connect() as sock:
        sock.sendall(head("Content-Length: 200000") + HEAD + b"x" * 100_000)
        wait_until(lambda: uploads(server), "the upload to begin")
    wait_until(lambda: not uploads(server), "the upload to be swept up")
    assert len(listed(server)) == before


def test_many_uploads_at_once_are_told_apart(server: FakeServer) -> None:
    socks = [server.connect() for _ in range(20)]
    raws = [post(b"%d" % (i % 10) * (1000 * (i + 1)), "Connection: close") for i in range(20)]
    for part in range(10):  # a tenth of each in turn
        for sock, raw in zip(socks, raws, strict=True):
            sock.sendall(raw[part * len(raw) // 10 : (part + 1) * len(raw) // 10])
    answers = [read_all(sock) for sock in socks]
    for sock in socks:
        sock.close()
    assert [outcome(answer) for answer in answers] == [(200, 1000 * (i + 1)) for i in range(20)]
    for i, answer in enumerate(answers):
        file_id = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
        assert server.get(f"/v1/files/{file_id}/content") == b"%d" % (i % 10) * (1000 * (i + 1))


def test_a_body_that_was_given_more_time_may_still_not_fall_silent() -> None:
    here, there = socket.socketpair()
    limits = ConnectionLimits(idle_s=9, header_s=9, body_s=0.001, write_s=9)
    with here, there:
        connection = ClientConnection(here, limits)
        connection.begin_request()
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > limits.body_s, "the body's time to be over")
        there.sendall(b"xy")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.allow_body(9)
        assert connection.recv(2) == b"xy"
        with pytest.raises(TimeoutError):
            connection.recv(1)
