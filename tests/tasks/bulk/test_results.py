from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.bulk.records import Outcome
from tasks.bulk.results import result_line
from tasks.errors import EngineFailedError
from tasks.openai import faces


def outcome(body: bytes, **other: Any) -> Outcome:
    facts = {"batch": "batch_1", "number": 4, "request_id": "req_1", "status_code": 200}
    return Outcome(body=body, **{**facts, **other})


def read(line: bytes) -> Any:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line)


def test_an_answer_stands_in_its_line_as_it_is() -> None:
    line = result_line('a "b" ü', outcome(b'{"n":1.0,"big":123456789012345678901234567890}'))
    assert b'"body":{"n":1.0,"big":123456789012345678901234567890}},"error":null}' in line
    said = read(line)
    assert said.pop("id").startswith("batch_req_")
    assert list(said) == ["custom_id", "response", "error"]
    assert said["custom_id"] == 'a "b" ü'
    assert said["response"]["status_code"] == 200
    assert said["response"]["request_id"] == "req_1"
    assert said["error"] is None


def test_an_answer_of_several_lines_becomes_one() -> None:
    assert read(result_line("a", outcome(b'{\r\n "x": "\\n"\n}\n')))["response"]["body"] == {"x": "\n"}


def test_an_error_that_was_answered_has_a_response() -> None:
    body = faces.body(EngineFailedError("It broke."))
    said = read(result_line("a", outcome(body, status_code=500, code="engine_failed", message="It broke.")))
    assert said["response"]["status_code"] == 500
    assert said["response"]["body"]["error"]["code"] == "engine_failed"
    assert said["error"] is None


@pytest.mark.parametrize(
    ("code", "message", "shown"),
    [
        ("batch_expired", "", "batch_expired"),
        ("model_not_found", "No such model.", "model_not_found"),
        ("engine_failed", "", "engine_failed"),
    ],
)
def test_a_line_that_never_ran_has_only_an_error(code: str, message: str, shown: str) -> None:
    said = read(result_line("a", outcome(b"", status_code=504, code=code, message=message)))
    assert said["response"] is None
    assert said["error"]["code"] == shown
    assert said["error"]["message"].startswith(message or "This request")


def test_the_id_of_a_line_is_the_same_each_time_and_of_no_other_line() -> None:
    first, again = (read(result_line("a", outcome(b"{}")))["id"] for _ in range(2))
    assert first == again
    assert read(result_line("a", outcome(b"{}", number=5)))["id"] != first
    assert read(result_line("a", outcome(b"{}", batch="batch_2")))["id"] != first
