"""The stub engine answers what any client of the OpenAI API understands."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.bench.peers import contenders
from tests.bench.peers.contender import Contender, spent
from tests.bench.peers.started import NotStartedError, started

MESSAGE: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contender]:
    with contenders.stub(tmp_path_factory.mktemp("stub")) as running:
        yield running


@pytest.fixture
def client(stub: Contender) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stub.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", ["instant", "paced"])
def test_streams_every_token_and_counts_them(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model, messages=MESSAGE, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    said = [chunk.choices[0].delta.content for chunk in chunks[1:6]]
    assert said == [f"stub.{index} " for index in range(5)]
    assert chunks[6].choices[0].finish_reason == "length"
    assert chunks[7].usage is not None
    assert chunks[7].usage.completion_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1


def test_answers_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="paced", messages=MESSAGE, max_tokens=3)
    assert answer.choices[0].message.content == "stub.0 stub.1 stub.2 "
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_lists_its_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["instant", "paced"]


def test_refuses_what_it_does_not_have(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="another", messages=MESSAGE)


def test_a_connection_is_kept_for_the_next_request(stub: Contender) -> None:
    connection = http.client.HTTPConnection(stub.url.removeprefix("http://"))
    body = json.dumps({"model": "instant", "max_tokens": 2, "stream": True})
    connection.request("POST", "/v1/chat/completions", body)
    first = connection.sock
    assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
    connection.request("GET", "/health")
    assert connection.getresponse().read() == b"{}"
    assert connection.sock is first
    connection.close()


def test_requests_in_one_piece_are_answered_one_after_the_other(stub: Contender) -> None:
    host, _, port = stub.url.removeprefix("http://").partition(":")
    body = json.dumps({"model": "paced", "max_tokens": 3}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: stub\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(request * 2)
        read = b""
        while read.count(b'"finish_reason":"length"') < 2:
            piece = connection.recv(65536)
            assert piece
            read += piece
    assert read.count(b"HTTP/1.1 200 OK") == 2


def test_what_is_no_http_is_refused(stub: Contender) -> None:
    host, _, port = stub.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"\x00\x00\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_its_process_is_found_and_what_it_spends_is_seen(stub: Contender) -> None:
    seen = spent(stub)
    assert {label for label, _ in seen.cpu_s} == {"stub"}
    assert seen.rss_mib["stub"] > 1


def test_a_program_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(NotStartedError, match="no such option"),
        started(["sh", "-c", "echo no such option; exit 3"], log=tmp_path / "log", probe="http://127.0.0.1:9/health"),
    ):
        pass
