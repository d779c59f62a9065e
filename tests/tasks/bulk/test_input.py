from __future__ import annotations

import io
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.bulk.input import MAX_FLAWS, InputFile, Terms, body_at
from tasks.bulk.records import Flaw, Line
from tasks.messages import Endpoint

CHAT = Terms(endpoint=Endpoint.CHAT, max_line_bytes=1000)
ANY = Terms(endpoint=None, max_line_bytes=1000)


def request(number: int = 1, **other: Any) -> dict[str, Any]:
    body = {"model": "demo", "messages": [{"role": "user", "content": f"Say {number}."}]}
    whole = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body} | other
    return {name: value for name, value in whole.items() if value is not None}


def text(*requests: dict[str, Any] | bytes) -> bytes:
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in requests)


def read(content: bytes, terms: Terms = CHAT, **how: int) -> tuple[list[Line], tuple[Flaw, ...]]:
    reading = InputFile(io.BytesIO(content), terms)
    lines = [line for chunk in reading.chunks(**how) for line in chunk]
    return lines, reading.flaws


def test_lines_are_numbered_as_in_the_file_and_found_again_there() -> None:
    content = text(request(1), b"", request(2), b"  \t", request(3))
    lines, flaws = read(content)
    assert flaws == ()
    assert [(line.number, line.custom_id) for line in lines] == [(1, "r1"), (3, "r2"), (5, "r3")]
    for number, line in enumerate(lines, start=1):
        assert json.loads(body_at(io.BytesIO(content), line)) == request(number)["body"]
        assert (line.model, line.endpoint) == ("demo", Endpoint.CHAT)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (text(request(1), request(2))[:-1], "no newline at the end"),
        (text(request(1), request(2)).replace(b"\n", b"\r\n"), "CRLF"),
        (b"\xef\xbb\xbf" + text(request(1), request(2)), "a BOM"),
        (b"\n\n" + text(request(1), request(2)) + b"\r\n \n", "blank lines around"),
    ],
)
def test_a_file_may_be_written_in_several_ways(content: bytes, what: str) -> None:
    lines, flaws = read(content)
    assert [line.custom_id for line in lines] == ["r1", "r2"], what
    assert flaws == ()
    assert [json.loads(body_at(io.BytesIO(content), line)) for line in lines] == [
        request(1)["body"],
        request(2)["body"],
    ]


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (b"null", "invalid_json_line", None),
        (b'{"custom_id": NaN}', "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None),
        ("{}".encode("utf-16"), "invalid_json_line", None),
        (b'{"body": ' + b"[" * 2000 + b"]" * 2000 + b"}", "invalid_json_line", None),
        (b"x" * 1001, "invalid_json_line", None),
        (request(custom_id=None), "missing_required_parameter", "custom_id"),
        (request(custom_id=""), "missing_required_parameter", "custom_id"),
        (request(custom_id=5), "invalid_request", "custom_id"),
        (request(custom_id="a\0b"), "invalid_request", "custom_id"),
        (request(custom_id="x" * 600), "invalid_request", "custom_id"),
        (request(method=None), "missing_required_parameter", "method"),
        (request(method="GET"), "invalid_method", "method"),
        (request(url=None), "missing_required_parameter", "url"),
        (request(url="/v1/embeddings"), "url_mismatch", "url"),
        (request(url="/v1/chat/completions/"), "url_mismatch", "url"),
        (request(url=["/v1/chat/completions"]), "url_mismatch", "url"),
        (request(body=None), "missing_required_parameter", "body"),
        (request(body="text"), "invalid_request", "body"),
        (request(body={"messages": []}), "missing_required_parameter", "body.model"),
        (request(body={"model": 3}), "invalid_request", "body.model"),
        (request(body={"model": "a\0"}), "invalid_request", "body.model"),
        (request(body={"model": "demo", "stream": True}), "invalid_request", "body.stream"),
    ],
)
def test_one_bad_line_is_a_flaw_and_nothing_of_its_file_is_given_out(
    line: dict[str, Any] | bytes, code: str, param: str | None
) -> None:
    lines, (flaw,) = read(text(request(7), line, request(8)), size=2)
    assert (flaw.code, flaw.param, flaw.line) == (code, param, 2)
    assert len(flaw.message) > 10
    assert lines == []


def test_a_line_that_does_not_stream_may_say_so() -> None:
    _, flaws = read(text(request(1, body={"model": "demo", "messages": [], "stream": False})))
    assert flaws == ()


def test_a_repeated_custom_id_is_a_flaw_of_the_later_line() -> None:
    _, (flaw,) = read(text(request(1), request(2), request(3, custom_id="r1")))
    assert (flaw.code, flaw.line, flaw.param) == ("duplicate_custom_id", 3, "custom_id")


@pytest.mark.parametrize("content", [b"", b"\n\r\n  \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_a_flaw(content: bytes) -> None:
    lines, (flaw,) = read(content)
    assert (lines, flaw.code, flaw.line) == ([], "empty_file", None)


def test_more_lines_than_allowed_are_a_flaw_and_not_read_on() -> None:
    content = text(*(request(number) for number in range(1, 6)))
    at_most = Terms(endpoint=Endpoint.CHAT, max_line_bytes=1000, max_lines=3)
    file = io.BytesIO(content + b"\n" + b"broken\n" * 10)
    reading = InputFile(file, at_most)
    assert [line for chunk in reading.chunks() for line in chunk] == []
    (flaw,) = reading.flaws
    assert flaw.code == "too_many_tasks"
    assert read(text(*(request(number) for number in range(1, 4))) + b"\n\n", at_most)[1] == ()


def test_the_rest_of_a_file_of_rubbish_is_not_looked_at() -> None:
    file = io.BytesIO(b"rubbish\n" * 100_000)
    reading = InputFile(file, CHAT)
    assert list(reading.chunks(size=10_000)) == [[]]
    assert len(reading.flaws) == MAX_FLAWS
    assert file.tell() < 10_000


def test_a_long_line_is_not_read_into_memory_and_the_next_one_is_found() -> None:
    class Watched(io.BytesIO):
        longest = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            line = super().readline(size)
            self.longest = max(self.longest, len(line))
            return line

    file = Watched(text(b"x" * 1_000_000, b"y" * 900))
    reading = InputFile(file, CHAT)
    list(reading.chunks())
    assert [flaw.line for flaw in reading.flaws] == [1, 2]
    assert reading.flaws[0].message == "This line is longer than 1000 bytes."
    assert file.longest <= 1 << 16


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_may_be_just_as_long_as_allowed(end: bytes) -> None:
    content = text(request(1))[:-1]
    length = len(content)
    assert read(content + end, Terms(endpoint=Endpoint.CHAT, max_line_bytes=length))[1] == ()
    assert len(read(content + end, Terms(endpoint=Endpoint.CHAT, max_line_bytes=length - 1))[1]) == 1


def test_chunks_come_for_so_many_lines_of_the_file_that_reading_can_be_broken_off() -> None:
    content = text(*(request(number) for number in range(1, 6))) + b"\n" * 7
    reading = InputFile(io.BytesIO(content), CHAT)
    assert [len(chunk) for chunk in reading.chunks(size=2)] == [2, 2, 1, 0, 0, 0, 0]


def test_reading_goes_on_after_a_number_and_still_knows_what_stood_before() -> None:
    content = text(*(request(number) for number in range(1, 8)))
    lines, flaws = read(content, after=4, size=2)
    assert [line.number for line in lines] == [5, 6, 7]
    assert flaws == ()
    _, (flaw,) = read(content + text(request(1)), after=4)
    assert flaw.code == "duplicate_custom_id"


def test_without_an_endpoint_each_line_says_its_own_or_is_a_body() -> None:
    bodies: list[dict[str, Any]] = [
        {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]},
        {"model": "demo", "prompt": "Hello"},
        {"model": "demo", "input": ["Hello"]},
    ]
    content = text(*bodies, request(4, url="/v1/embeddings", body={"model": "other", "input": "x"}))
    lines, flaws = read(content, ANY)
    assert flaws == ()
    assert [(line.custom_id, line.endpoint) for line in lines] == [
        ("line-1", Endpoint.CHAT),
        ("line-2", Endpoint.COMPLETION),
        ("line-3", Endpoint.EMBEDDING),
        ("r4", Endpoint.EMBEDDING),
    ]
    found = [json.loads(body_at(io.BytesIO(content), line)) for line in lines]
    assert found == [*bodies, {"model": "other", "input": "x"}]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ({"model": "demo"}, "invalid_request"),
        ({"messages": []}, "missing_required_parameter"),
        ({"model": "demo", "prompt": "x", "stream": True}, "invalid_request"),
        (request(url="/v1/responses"), "url_mismatch"),
        (request(2, custom_id="line-1"), "duplicate_custom_id"),
    ],
)
def test_without_an_endpoint_lines_are_checked_too(line: dict[str, Any], code: str) -> None:
    _, (flaw,) = read(text({"model": "demo", "prompt": "x"}, line), ANY)
    assert (flaw.code, flaw.line) == (code, 2)


def test_a_bare_body_is_nothing_where_the_batch_has_an_endpoint() -> None:
    _, (flaw,) = read(text({"model": "demo", "messages": []}))
    assert flaw.code == "missing_required_parameter"


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"demo","seed":123456789012345678901234567890,"top_p":1.0,"temperature":1E-2}',
        '{ "model" : "demo" , "a}\\"{" : "]\\\\" , "b" : [ { } , [ ] ] }',
        '{"model":"demo","body":{"body":1},"deep":' + "[" * 900 + "]" * 900 + "}",
    ],
)
@pytest.mark.parametrize(
    "around",
    [
        '{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":%s}',
        '{"body" : %s ,"custom_id":"a","method":"POST","url":"/v1/chat/completions","x":{"body":{}},"y":["body"]}',
        '{"custom_id":"body","method":"POST","body":{"model":"no"},"url":"/v1/chat/completions","\\u0062ody":%s}',
        '{"z":"body","custom_id":"a}{","method":"POST","url":"/v1/chat/completions","body":%s, "t": {"u": 1}}',
    ],
)
def test_a_body_comes_back_byte_for_byte(around: str, body: str) -> None:
    content = (around % body).encode() + b"\n"
    (line,), flaws = read(content, Terms(endpoint=Endpoint.CHAT, max_line_bytes=100_000))
    assert flaws == ()
    assert body_at(io.BytesIO(content), line) == body.encode()


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text() | st.just("body"), _JSON, max_size=5), st.dictionaries(st.text(), _JSON, max_size=3))
def test_any_body_comes_back_whatever_stands_beside_it(body: dict[str, Any], beside: dict[str, Any]) -> None:
    whole = beside | request(1, body=body | {"model": "demo", "stream": False})
    content = orjson.dumps(whole) + b"\n"
    (line,), flaws = read(content, Terms(endpoint=Endpoint.CHAT, max_line_bytes=1 << 20))
    assert flaws == ()
    assert orjson.loads(body_at(io.BytesIO(content), line)) == whole["body"]


def test_the_body_of_a_call_is_in_its_line() -> None:
    line = Line(number=1, custom_id="c", model="demo", endpoint=Endpoint.CHAT, body=b"{}")
    assert body_at(io.BytesIO(), line) == b"{}"


def test_a_file_that_lost_its_end_is_noticed() -> None:
    content = text(request(1))
    (line,), _ = read(content)
    with pytest.raises(ValueError, match="line 1"):
        body_at(io.BytesIO(content[:-20]), line)


@given(st.binary(max_size=300))
def test_no_file_breaks_the_reader(content: bytes) -> None:
    _, flaws = read(content, ANY)
    assert all(flaw.message for flaw in flaws)
