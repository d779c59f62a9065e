"""What only shows on a real connection: clients that leave, stall, lie or talk too much (X5, X8, X16)."""

from __future__ import annotations

import json
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tests.webapp.fake_server import FakeServer, big_frame, frame, post, read_all, read_until, request, serve

GET_LIVE = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LIMIT = 100_000
# With the line break in front, or a request id that ends with 0 would be one as well.
LAST_CHUNK = b"\r\n0\r\n\r\n"
RESUMABLE = "X-Celerity-Resumable: true"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    settings = {"HEADER_TIMEOUT_S": "1", "BODY_TIMEOUT_S": "1", "WRITE_TIMEOUT_S": "1", "MAX_BODY_BYTES": str(LIMIT)}
    with serve(tmp_path_factory.mktemp("gateway"), **settings) as running:
        yield running


@pytest.fixture(autouse=True)
def still_serving(server: FakeServer) -> Iterator[None]:
    """After every misuse a plain request succeeds, nothing is left open, and no key or prompt was logged."""
    yield
    assert b"[DONE]" in server.exchange(request("say 1"))
    quiet = b'celerity_requests_in_flight{model="demo"} 0.0'
    wait_until(lambda: quiet in server.get("/metrics"), "all requests to end")
    log = server.log.read_text()
    assert '"exception"' not in log
    assert "secret" not in log


def unchunked(body: bytes) -> bytes:
    pieces: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        assert body[length : length + 2] == b"\r\n"
        if not length:
            assert not body[2:]
            return b"".join(pieces)
        pieces.append(body[:length])
        body = body[length + 2 :]


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_code(answer: bytes) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    assert b"x-request-id: req_" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


def test_a_stream_is_chunked_and_the_connection_serves_on(server: FakeServer) -> None:
    with server.connect() as sock:
        for _ in range(2):
            sock.sendall(request("say 3", close=False))
            answer = read_until(sock, LAST_CHUNK)
            assert b"Transfer-Encoding: chunked" in answer
            assert b"Connection: keep-alive" in answer
            assert frame(2) in answer
            assert b"data: [DONE]\n\n" in answer


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_before_its_answer_is_noticed(server: FakeServer, stream: bool) -> None:
    text = f"hang {stream}"
    with server.connect() as sock:
        sock.sendall(request(text, stream=stream))
        wait_until(lambda: server.answer_to(text), "the call")
        assert not server.answer_to(text)["abandoned"]
    wait_until(lambda: server.answer_to(text)["cancelled"], "the call to be cancelled")
    assert server.answer_to(text)["abandoned"]


def test_a_client_that_leaves_a_silent_stream_is_noticed(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(request("stall left"))
        read_until(sock, frame(0))
    wait_until(lambda: server.answer_to("stall left")["cancelled"], "the call to be cancelled")
    assert server.answer_to("stall left")["abandoned"]


def test_a_connection_that_is_reset_is_noticed(server: FakeServer) -> None:
    sock = server.connect()
    sock.sendall(request("hang reset", stream=False))
    wait_until(lambda: server.answer_to("hang reset"), "the call")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    wait_until(lambda: server.answer_to("hang reset")["cancelled"], "the call to be cancelled")


def test_requests_sent_ahead_are_answered_in_turn(server: FakeServer) -> None:
    ahead = request("say 2", close=False) + request("say 4", stream=False)
    answer = server.exchange(ahead)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.endswith(b'{"said":4}')


def test_a_request_sent_during_an_answer_is_not_taken_for_a_departure(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(request("stall ahead", close=False))
        read_until(sock, frame(0))
        sock.sendall(request("say 1"))
        assert not server.answer_to("stall ahead")["abandoned"]
    wait_until(lambda: server.answer_to("stall ahead")["cancelled"], "the call to be cancelled")
    assert server.answer_to("stall ahead")["abandoned"]


def test_a_client_that_never_reads_is_dropped(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(request("flood unread"))
        wait_until(lambda: server.answer_to("flood unread").get("cancelled"), "the flood to be cancelled")
    assert b"slow_client_dropped" in server.log.read_bytes()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_forwarded_frames_come_whole_and_in_order(server: FakeServer, version: str) -> None:
    text = f"feed {50 + int(version[-1])}"
    head, _, body = server.exchange(request(text, version=version)).partition(b"\r\n\r\n")
    frames = unchunked(body) if b"chunked" in head else body
    assert frames == b"".join(map(frame, range(int(text.split()[1])))) + b"data: [DONE]\n\n"
    assert server.answer_to(text)["forwarded"]


def test_a_client_that_reads_late_gets_all_that_was_forwarded(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(request("pour 200"))
        wait_until(lambda: server.answer_to("pour 200").get("refused"), "the client's buffers to be full")
        body = read_all(sock).partition(b"\r\n\r\n")[2]
    assert unchunked(body) == b"".join(map(big_frame, range(200))) + b"data: [DONE]\n\n"
    assert not server.answer_to("pour 200")["cancelled"]


def test_a_client_that_never_reads_what_is_forwarded_is_dropped(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(request("pour 1000000"))
        wait_until(lambda: server.answer_to("pour 1000000").get("cancelled"), "the answer to be cancelled")
    assert server.answer_to("pour 1000000")["refused"] == 1


def test_a_client_that_leaves_while_frames_are_forwarded_is_noticed(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(request("feed 100000000"))
        wait_until(lambda: server.answer_to("feed 100000000").get("forwarded"), "frames")
        read_until(sock, frame(0))
    wait_until(lambda: server.answer_to("feed 100000000")["cancelled"], "the call to be cancelled")


def test_a_header_that_does_not_end_is_cut_off(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET /live HTTP/1.1\r\nX-Sl")
        assert read_all(sock) == b""


def test_a_second_header_is_bounded_as_well(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(request("say 1", close=False))
        read_until(sock, LAST_CHUNK)
        sock.sendall(b"GET /live")
        assert read_all(sock) == b""


@pytest.mark.parametrize("sent", [post(b'{"mod', length=100), post(b"ff\r\n{", "Transfer-Encoding: chunked")])
def test_a_body_that_does_not_end_is_a_timeout(server: FakeServer, sent: bytes) -> None:
    answer = server.exchange(sent)
    assert (status_of(answer), error_code(answer)) == (408, "request_timeout")
    assert b"Connection: close" in answer


def test_a_body_too_large_is_refused_unread(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(post(b"", close=False, length=10**9))
        sock.sendall(b"x" * 1000)
        answer = read_all(sock)
    assert (status_of(answer), error_code(answer)) == (413, "request_too_large")
    assert b"Connection: close" in answer


def test_a_refusal_is_read_even_by_a_client_that_sends_all_first(server: FakeServer) -> None:
    answer = server.exchange(post(b"x" * 3 * LIMIT, close=False))
    assert (status_of(answer), error_code(answer)) == (413, "request_too_large")


def test_chunks_are_counted(server: FakeServer) -> None:
    chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"
    answer = server.exchange(post(chunk * 20, "Transfer-Encoding: chunked", close=False))
    assert (status_of(answer), error_code(answer)) == (413, "request_too_large")


def test_a_chunked_body_is_read_whole(server: FakeServer) -> None:
    body = request("say 2", stream=False).partition(b"\r\n\r\n")[2]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:9], body[9:])) + b"0\r\n\r\n"
    assert server.exchange(post(chunks, "Transfer-Encoding: chunked")).endswith(b'{"said":2}')


def test_a_body_that_is_cut_is_the_clients_mistake(server: FakeServer) -> None:
    with server.connect() as sock:
        sock.sendall(post(b'{"mod', length=100))
        sock.shutdown(socket.SHUT_WR)
        answer = read_all(sock)
    assert (status_of(answer), error_code(answer)) == (400, "invalid_request")


def test_an_expectation_is_met_before_the_body_is_sent(server: FakeServer) -> None:
    head, _, body = request("say 1", stream=False).partition(b"\r\n\r\n")
    with server.connect() as sock:
        sock.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        read_until(sock, b"100 Continue\r\n\r\n")
        sock.sendall(body)
        assert read_all(sock).endswith(b'{"said":1}')


BAD_HTTP = {
    "length and chunks": (post(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 5"), 400),
    "two lengths": (post(b"{}", "Content-Length: 3"), 400),
    "a negative length": (post(b"", length=-1), 400),
    "a strange coding": (post(b"", "Transfer-Encoding: secret"), 501),
    "a bad chunk": (post(b"zz\r\n", "Transfer-Encoding: chunked"), 400),
    "no HTTP": (b"secret\r\n\r\n", 400),
    "a lower-case method": (b"get /live HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "an unknown version": (b"GET /live HTTP/3.7\r\nHost: x\r\n\r\n", 400),
    "a header with a line break": (b"GET /live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\n1\r\n\r\n", 400),
    "a header without a name": (b"GET /live HTTP/1.1\r\nHost: x\r\n: secret\r\n\r\n", 400),
    "a huge header": (b"GET /live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"x" * 2**20 + b"\r\n\r\n", 431),
    "a long address": (b"GET /" + b"x" * 2**14 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "a strange expectation": (post(b"", "Expect: secret"), 417),
    "a tunnel": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "a trace": (b"TRACE /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
}


@pytest.mark.parametrize(("raw", "status"), BAD_HTTP.values(), ids=BAD_HTTP)
def test_bad_http_is_answered_like_anything_else(server: FakeServer, raw: bytes, status: int) -> None:
    answer = server.exchange(raw)
    assert status_of(answer) == status
    assert error_code(answer)


def test_an_absolute_address_and_head_and_options_are_plain_http(server: FakeServer) -> None:
    assert status_of(server.exchange(GET_LIVE.replace(b"/live", b"http://x/live"))) == 200
    assert server.exchange(GET_LIVE.replace(b"GET", b"HEAD")).endswith(b"\r\n\r\n")
    options = server.exchange(GET_LIVE.replace(b"GET /live", b"OPTIONS /v1/chat/completions"))
    assert status_of(options) == 200
    assert b"POST" in options


def test_an_old_client_gets_its_stream_without_chunks(server: FakeServer) -> None:
    answer = server.exchange(request("say 2", version="1.0"))
    assert b"chunked" not in answer
    assert answer.endswith(frame(0) + frame(1) + b"data: [DONE]\n\n")


def where(head: bytes) -> str:
    (address,) = [line[10:] for line in head.split(b"\r\n") if line.startswith(b"Location: ")]
    return address.decode()


@pytest.mark.parametrize("way_out", ["close", "reset"])
def test_a_client_that_leaves_a_resumable_stream_finds_it_again(server: FakeServer, way_out: str) -> None:
    text = f"stall again {way_out}"
    with server.connect() as sock:
        sock.sendall(request(text, RESUMABLE))
        head = read_until(sock, b"id: 1-1-0\n" + frame(0))
        if way_out == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: server.answer_to(text)["closed"], "the call to be let go of")
    assert not server.answer_to(text)["cancelled"]
    with server.connect() as sock:
        sock.sendall(f"GET {where(head)}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        read_until(sock, b"id: 1-1-0\n" + frame(0))


def test_a_resumable_stream_is_read_to_its_end_on_other_connections(server: FakeServer) -> None:
    answer = server.exchange(request("say 3", RESUMABLE))
    events = f"{where(answer)}/events"
    rest = server.get(events, "Last-Event-ID: 1-2-0")
    assert b"id: 1-3-0\n" + frame(2) + b"id: end\ndata: [DONE]\n\n" in rest
    assert frame(1) not in rest
    assert status_of(server.exchange(f"HEAD {events} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())) == 200
    assert server.get(events, "Last-Event-ID: end") == b""


def test_clients_that_keep_connections_for_later_shut_nobody_out(tmp_path: Path) -> None:
    with serve(tmp_path, GATEWAY_CONNECTIONS="6") as server, ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(6)]
        for sock in idle:
            sock.sendall(request("say 1", close=False))
            read_until(sock, LAST_CHUNK)
        assert b"[DONE]" in server.exchange(request("say 1"))
        assert read_all(idle[0]) == b""


def test_more_clients_than_it_can_serve_are_told_so_at_once(tmp_path: Path) -> None:
    with serve(tmp_path, GATEWAY_CONNECTIONS="3") as server, ExitStack() as stack:
        busy = [stack.enter_context(server.connect()) for _ in range(3)]
        for index, sock in enumerate(busy):
            sock.sendall(request(f"stall {index}"))
            read_until(sock, frame(0))
        refused = server.exchange(request("say 1"))
        assert (status_of(refused), error_code(refused)) == (503, "server_overloaded")
        assert b"Retry-After" in refused
        busy.pop().close()
        wait_until(lambda: b"[DONE]" in server.exchange(request("say 1")), "the seat of a client that left")


def test_a_process_told_to_stop_ends_its_streams_in_words(tmp_path: Path) -> None:
    with serve(tmp_path, DRAIN_TIMEOUT_S="0.5") as server, server.connect() as idle:
        idle.sendall(GET_LIVE.replace(b"Connection: close\r\n", b""))
        read_until(idle, b'{"status":"ok"}\n')
        with server.connect() as busy, server.connect() as old, server.connect() as whole:
            busy.sendall(request("stall busy"))
            old.sendall(request("stall old", version="1.0"))
            whole.sendall(request("hang whole", stream=False))
            read_until(busy, frame(0))
            read_until(old, frame(0))
            wait_until(lambda: server.answer_to("hang whole"), "the call")
            assert server.stop() == 0
            assert read_all(idle) == b""
            for sock in (busy, old):
                rest = read_all(sock)
                assert b'"code":"service_unavailable"' in rest
                assert b"[DONE]" not in rest
            refused = read_all(whole)
            assert (status_of(refused), error_code(refused)) == (503, "service_unavailable")
            assert b"Retry-After" in refused


def test_a_process_that_drains_says_so_to_whoever_comes(tmp_path: Path) -> None:
    with serve(tmp_path, DRAIN_TIMEOUT_S="20") as server, server.connect() as busy, server.connect() as silent:
        busy.sendall(request("stall busy"))
        read_until(busy, frame(0))
        server.process.send_signal(signal.SIGTERM)
        health = GET_LIVE.replace(b"/live", b"/health")
        wait_until(lambda: status_of(server.exchange(health)) == 503, "the drain to begin")
        assert read_all(silent) == b""
        kept_alive = server.exchange(health.replace(b"Connection: close\r\n", b""))
        assert (status_of(kept_alive), b"Connection: close" in kept_alive) == (503, True)
        assert status_of(server.exchange(GET_LIVE)) == 200
        refused = server.exchange(request("say 1", close=False))
        assert (status_of(refused), error_code(refused)) == (503, "service_unavailable")
        assert b"Retry-After" in refused
        assert server.process.poll() is None
        # Nobody it has promised anything to is left: it need not wait for its time to run out.
        busy.close()
        assert server.process.wait(15) == 0


def test_a_process_told_to_stop_tells_readers_of_a_resumable_stream_to_come_back(tmp_path: Path) -> None:
    with serve(tmp_path, DRAIN_TIMEOUT_S="0.5") as server, server.connect() as first, server.connect() as reader:
        first.sendall(request("stall kept", RESUMABLE))
        events = f"{where(read_until(first, frame(0)))}/events"
        reader.sendall(f"GET {events} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        read_until(reader, frame(0))
        assert server.stop() == 0
        for sock in (first, reader):
            rest = read_all(sock)
            assert b'"code":"service_unavailable"' in rest
            assert b"Last-Event-ID" in rest
            assert b"id: " not in rest
            assert b"[DONE]" not in rest


def test_a_process_with_idle_clients_only_stops_at_once(tmp_path: Path) -> None:
    with serve(tmp_path, DRAIN_TIMEOUT_S="600") as server, server.connect() as idle, server.connect() as silent:
        idle.sendall(GET_LIVE.replace(b"Connection: close\r\n", b""))
        read_until(idle, b'{"status":"ok"}\n')
        assert server.stop() == 0
        assert read_all(idle) == b""
        assert read_all(silent) == b""
