"""What vLLM answers → results, told from the bytes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from workers.engine.base import Result
from workers.engine.vllm_answers import DONE, error, finish_reason, result, result_of_stream

HEAD = 'data: {"id":"chatcmpl-r","object":"chat.completion.chunk","choices":[{"index":0,"delta":'


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (HEAD + '{"content":"a"},"finish_reason":null}]}\n\n', None),
        (HEAD + '{"content":"a"},"finish_reason":"length","stop_reason":null}]}\n\n', "length"),
        (HEAD + '{"content":"\\"finish_reason\\":\\"stop\\""},"finish_reason":null}]}\n\n', None),
        (HEAD + '{"content":"\\"finish_reason\\":\\"x\\""},"finish_reason":"tool_calls"}]}\n\n', "tool_calls"),
        (DONE, None),
    ],
)
def test_a_finish_reason_is_the_field_never_the_text(frame: str, reason: str | None) -> None:
    assert finish_reason(frame) == reason


def test_an_error_frame_is_told_from_text_about_errors() -> None:
    frame = 'data: {"error": {"message": "no", "type": "BadRequestError", "param": "n", "code": 400}}\n\n'
    assert error(frame) == (400, "no", "n")
    assert error(HEAD + '{"content":"{\\"error\\": 1}"}}]}\n\n') is None
    assert error(DONE) is None


def test_a_stream_ends_with_the_counts_of_vllm() -> None:
    usage = SimpleNamespace(prompt_tokens=3, completion_tokens=None)
    assert result_of_stream("stop", usage) == Result(finish_reason="stop", prompt_tokens=3)


def test_a_whole_answer_is_passed_on() -> None:
    answer = SimpleNamespace(
        choices=[SimpleNamespace(finish_reason="stop")],
        usage=SimpleNamespace(prompt_tokens=3, completion_tokens=5),
        model_dump_json=lambda: '{"id":"é"}',
    )
    whole = Result(finish_reason="stop", prompt_tokens=3, completion_tokens=5, body='{"id":"é"}'.encode())
    assert result(answer) == whole


def test_the_tokens_of_an_embedding_are_counted_at_its_end() -> None:
    data = b'{"data":[{"embedding":"' + b"A" * 4000 + b'"}],"usage":{"prompt_tokens":7,"total_tokens":7}}'
    assert result(SimpleNamespace(body=data)) == Result(prompt_tokens=7, body=data)
    assert result(SimpleNamespace(body=b"{}")).prompt_tokens == 0
