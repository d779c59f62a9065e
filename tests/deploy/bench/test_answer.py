"""What a load knows of a response, however the bytes of it fall into reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.bench.answer import CHAT, COMPLETION, Answer
from deploy.bench.framing import MalformedError

ROLE = {"role": "assistant", "content": ""}


def frame(delta: Mapping[str, object], **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + json.dumps({"id": "x", "choices": [choice], **more}, separators=(",", ":")).encode() + b"\n\n"


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    body = b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


def sized(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n" % (status.encode(), len(body)) + body


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
TOKENS = [frame({"content": text}) for text in ("one", ' "content": "', "data: [DONE]", "\n\ndata: x\n\n", "ü\\")]
STREAM = chunked(frame(ROLE), *TOKENS, frame({}), USAGE, DONE, trailer=b"x-took: 5\r\n")


def read(pieces: list[bytes], content: re.Pattern[bytes] | None = CHAT) -> tuple[Answer, int]:
    """Return the answer, and how many frames were told of as they came."""
    answer = Answer(content)
    told = 0
    for piece in pieces:
        assert not answer.complete
        told += answer.feed(piece)
    return answer, told


def split(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place for place in places if 0 < place < len(data)} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def is_the_stream(pieces: list[bytes]) -> None:
    answer, told = read(pieces)
    assert answer.complete
    assert answer.error() is None
    assert answer.frames == told == len(TOKENS)
    assert answer.completion_tokens == 5
    assert answer.keep_alive


def test_a_stream_is_the_same_cut_at_any_byte() -> None:
    for place in range(len(STREAM)):
        is_the_stream(split(STREAM, [place]))


def test_a_stream_is_the_same_byte_by_byte() -> None:
    is_the_stream([STREAM[i : i + 1] for i in range(len(STREAM))])


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_is_the_same_in_any_pieces(places: list[int]) -> None:
    is_the_stream(split(STREAM, places))


@settings(deadline=None)
@given(st.lists(st.integers(1, 400)))
def test_chunks_may_end_anywhere_in_a_frame(places: list[int]) -> None:
    body = b"".join([frame(ROLE), *TOKENS, frame({}), USAGE, DONE])
    is_the_stream([chunked(*split(body, places))])


@settings(deadline=None)
@given(st.lists(st.text(), max_size=8))
def test_every_token_counts_whatever_it_says(texts: list[str]) -> None:
    answer, _ = read([chunked(frame(ROLE), *(frame({"content": text}) for text in texts), DONE)])
    assert answer.frames == sum(bool(text) for text in texts)
    assert answer.error() is None


def test_frames_are_known_by_what_they_hold() -> None:
    spaced = b'data: {"choices": [{"delta": {"content": "x"}}]}\r\n\r\n'
    thought = frame({"reasoning": "hm", "content": None})
    said = frame({"reasoning_content": None, "role": "assistant", "content": "so"})
    answer, _ = read([chunked(b": ping\n\n", spaced, thought, said, b"data:[DONE]\n\n")])
    assert (answer.frames, answer.error()) == (3, None)
    plain = b'data: {"choices":[{"text":"x"}]}\n\ndata: {"choices":[{"text":""}]}\n\n'
    answer, _ = read([chunked(plain, DONE)], COMPLETION)
    assert (answer.frames, answer.error()) == (1, None)


def test_a_stream_that_stops_early_is_an_error() -> None:
    answer, _ = read([chunked(*TOKENS)])
    assert answer.complete
    assert answer.error() == "stream ended without [DONE]"


def test_an_error_in_a_stream_has_its_code() -> None:
    failure = b'data: {"error": {"message": "gone", "code": "engine_failed"}}\n\n'
    answer, _ = read([chunked(TOKENS[0], failure, DONE)])
    assert answer.error() == "error in a stream: engine_failed"
    answer, _ = read([chunked(b'data: {"error":"broken"}\n\n')])
    assert answer.error() == "error in a stream: broken"


def test_a_refusal_has_its_code() -> None:
    body = b'{"error": {"message": "later", "type": "server_error", "code": "queue_full"}}'
    assert read([sized(body, "503 Service Unavailable")])[0].error() == "503 queue_full"
    assert read([sized(b"<html>", "502 Bad Gateway")])[0].error() == "502"
    assert read([sized(b'{"error": {"message": "no", "code": 401}}', "401 x")])[0].error() == "401 401"
    assert read([sized(b'{"detail": "Not Found"}', "404 x")])[0].error() == "404"


@pytest.mark.parametrize("place", range(150))
def test_a_whole_answer_says_its_tokens(place: int) -> None:
    body = b'{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":64}}'
    answer, told = read(split(sized(body), [place]), None)
    assert answer.complete
    assert (answer.completion_tokens, answer.error(), told) == (64, None, 0)


def test_an_answer_of_no_length_ends_with_its_connection() -> None:
    answer, _ = read([b"HTTP/1.0 200 OK\r\n\r\n", *TOKENS, DONE])
    assert not answer.complete
    answer.close()
    assert answer.complete
    assert (answer.error(), answer.keep_alive, answer.frames) == (None, False, len(TOKENS))


def test_one_that_is_cut_does_not_end_with_its_connection() -> None:
    for head in (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", b"HTTP/1.1 200 OK\r\nContent-"):
        answer, _ = read([head])
        answer.close()
        assert not answer.complete


def test_a_server_may_close_after_an_answer() -> None:
    answer, _ = read([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"], None)
    assert answer.complete
    assert not answer.keep_alive


@pytest.mark.parametrize(
    "nonsense",
    [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", b"x" * 70_000],
)
def test_what_is_not_http_is_refused(nonsense: bytes) -> None:
    with pytest.raises(MalformedError):
        read([nonsense])
