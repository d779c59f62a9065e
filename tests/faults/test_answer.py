"""The suite is worth as much as its eye: each way in which an answer can be wrong must show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.faults.answer import DirtyError, ErrorEvent, StreamedAnswer, whole


def chunk(text: str | None = None, *, role: str | None = None, finish: str | None = None, answer: str = "a") -> bytes:
    delta: dict[str, Any] = {} if text is None else {"content": text}
    delta |= {"role": role} if role else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": answer, "choices": [choice]}).encode() + b"\n\n"


ROLE, ONE, TWO, FINISH = chunk("", role="assistant"), chunk("x.0 "), chunk("x.1 "), chunk(finish="length")
DONE = b"data: [DONE]\n\n"


def read(data: bytes, expected: str = "x.0 x.1 ") -> StreamedAnswer:
    answer = StreamedAnswer(expected)
    for at in range(len(data)):
        answer.feed(data[at : at + 1])
    answer.end()
    return answer


def test_a_whole_answer_is_clean() -> None:
    answer = read(b": ping\n\n" + ROLE + ONE + b": ping\n\n" + TWO + FINISH + DONE)
    assert (answer.text, answer.frames, answer.done) == ("x.0 x.1 ", 4, True)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(ROLE + ONE + ONE + TWO + FINISH + DONE, id="a repeated token"),
        pytest.param(ROLE + TWO + FINISH + DONE, id="a gap"),
        pytest.param(ROLE + ONE + FINISH + DONE, id="a missing end"),
        pytest.param(ROLE + chunk("y.0 ") + FINISH + DONE, id="somebody else's token"),
        pytest.param(ROLE + ROLE + ONE + TWO + FINISH + DONE, id="the role twice"),
        pytest.param(ONE + TWO + FINISH + DONE, id="no role"),
        pytest.param(ROLE + ONE + TWO + FINISH + FINISH + DONE, id="two finishes"),
        pytest.param(ROLE + ONE + TWO + DONE, id="no finish"),
        pytest.param(ROLE + ONE + TWO + FINISH + DONE + DONE, id="two ends"),
        pytest.param(ROLE + ONE + TWO + FINISH, id="no [DONE]"),
        pytest.param(ROLE + ONE + TWO + FINISH + DONE + b"data: {", id="half an event at the end"),
        pytest.param(ROLE + chunk("x.0 ", answer="b") + TWO + FINISH + DONE, id="another id"),
        pytest.param(b"event: x\n" + ROLE + ONE + TWO + FINISH + DONE, id="a line that is not for OpenAI's clients"),
        pytest.param(ROLE + b'data: {"error": {"message": "no"}}\n\n', id="an error of another shape"),
    ],
)
def test_anything_else_is_dirty(data: bytes) -> None:
    with pytest.raises(DirtyError):
        read(data)


def test_an_error_event_is_no_dirt() -> None:
    error = {"message": "no", "type": "server_error", "param": None, "code": "engine_failed"}
    with pytest.raises(ErrorEvent) as raised:
        read(ROLE + ONE + b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
    assert raised.value.code == "engine_failed"


def test_an_event_counts_as_received_with_its_last_line() -> None:
    answer = StreamedAnswer("x.0 ")
    answer.feed(b"id: 1-1\n" + ROLE + b"id: 1-2\n" + ONE[:-1])
    answer.reconnect()
    assert (answer.last_event_id, answer.text) == ("1-1", "")
    answer.feed(b"id: 1-2\n" + ONE + FINISH + b"id: end\n" + DONE)
    answer.end()
    assert answer.last_event_id == "end"


def test_an_answer_in_one_piece_is_read_as_strictly() -> None:
    body = {"choices": [{"message": {"content": "x.0 "}, "finish_reason": "length"}]}
    assert whole(json.dumps(body).encode(), "x.0 ") == "x.0 "
    with pytest.raises(DirtyError):
        whole(json.dumps(body).encode(), "x.0 x.1 ")
