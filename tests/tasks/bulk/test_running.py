"""What becomes of a line when its call ends."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tasks.bulk.ledger import request_id_of
from tasks.bulk.records import Outcome, Taken
from tasks.bulk.running import MAX_ATTEMPTS, Again, Running, expired, verdict
from tasks.messages import Call, Done, Endpoint, Failed
from tests.tasks.bulk.ledger_rows import batch_id, line


def taken(attempt: int = 1) -> Taken:
    id_ = request_id_of(batch_id(1), 1, attempt)
    return Taken(batch=batch_id(1), line=line(1), attempt=attempt, request_id=id_)


def test_an_answer_is_kept_byte_for_byte() -> None:
    outcome = verdict(taken(), Done(prompt_tokens=3, completion_tokens=4, body=b'{"x": 1}'))
    assert isinstance(outcome, Outcome)
    assert (outcome.ok, outcome.body, outcome.prompt_tokens, outcome.completion_tokens) == (True, b'{"x": 1}', 3, 4)


def test_what_may_pass_is_tried_three_times_with_growing_pauses() -> None:
    broke = Failed("engine_failed", "It broke.")
    pauses = [verdict(taken(attempt), broke) for attempt in range(1, MAX_ATTEMPTS)]
    assert pauses == [Again(1.0), Again(5.0)]
    last = verdict(taken(MAX_ATTEMPTS), broke)
    assert isinstance(last, Outcome)
    assert (last.code, last.status_code) == ("engine_failed", 500)


@pytest.mark.parametrize(
    "end",
    [
        Failed("engine_failed", "Workers died whenever they ran it.", final=True),
        Failed("context_length_exceeded", "Too long.", "messages"),
        Failed("deadline_exceeded", "The answer took too long."),
        Failed("request_cancelled", "Somebody cancelled it."),
        Failed("of_a_newer_release", "Who knows."),
    ],
)
def test_what_would_fail_again_is_not_tried_again(end: Failed) -> None:
    outcome = verdict(taken(), end)
    assert isinstance(outcome, Outcome)
    error = json.loads(outcome.body)["error"]
    assert (outcome.code, error["code"], error["message"], error["param"]) == (
        end.code,
        end.code,
        end.message,
        end.param,
    )


def test_a_line_that_there_was_no_time_for_has_no_response() -> None:
    outcome = expired(batch_id(1), taken())
    assert (outcome.ok, outcome.body, outcome.code) == (False, b"", "batch_expired")


def test_a_silent_call_is_looked_at_ever_more_seldom() -> None:
    call = Call(id="r", model="m", endpoint=Endpoint.CHAT, body=b"", stream=False, gateway="")
    it = Running(taken=taken(), call=call, heard_at=0.0)
    assert not it.due(2.9)
    assert it.due(3.1)
    looked = dataclasses.replace(it, looked_at=3.1, unclaimed_looks=4)
    assert not looked.due(23.0)
    assert looked.due(23.2)
