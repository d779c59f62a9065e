"""What vLLM complains of → a refusal that repeats nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workers.engine.vllm_errors import invalid_body, refusal, unsupported

SECRET = "xylophone"
TOO_LONG = "This model's maximum context length is 512 tokens. However, your prompt contains 513 input tokens"


def test_a_fault_of_the_engine_says_nothing_of_its_cause() -> None:
    failed = refusal("chat", 500, f"KeyError: /models/{SECRET}")
    assert failed.code == "engine_failed"
    assert SECRET not in failed.message


@pytest.mark.parametrize(
    ("endpoint", "param"), [("chat", "messages"), ("completion", "prompt"), ("embedding", "input")]
)
def test_a_prompt_that_is_too_long_is_told_by_its_field(endpoint: str, param: str) -> None:
    failed = refusal(endpoint, 400, f"{TOO_LONG} (parameter=input_tokens, value=513)", "input_tokens")
    assert (failed.code, failed.param, failed.message) == ("context_length_exceeded", param, TOO_LONG)


def test_too_many_tokens_asked_for_are_told_by_their_field() -> None:
    text = "max_tokens=9999 cannot be greater than max_model_len=512. Please request fewer output tokens."
    failed = refusal("chat", 400, text, "max_tokens")
    assert (failed.code, failed.param) == ("context_length_exceeded", "max_tokens")


def test_the_refused_value_the_rest_of_the_text_and_advice_to_operators_are_left_out() -> None:
    failed = refusal("chat", 400, f"temperature is wrong (parameter=temperature, value={SECRET})", "temperature")
    assert (failed.code, failed.message, failed.param) == ("invalid_request", "temperature is wrong", "temperature")
    assert refusal("chat", 400, f"Grammar error: regex\n  {SECRET}").message == "Grammar error: regex"
    long = refusal(
        "chat", 400, "n must be at most 16. To increase this limit, set the VLLM_MAX_N environment variable."
    )
    assert long.message == "n must be at most 16."
    assert len(refusal("chat", 400, "x" * 10_000).message) == 400


def test_an_endpoint_that_is_not_there_names_those_that_are() -> None:
    failed = unsupported("embedding", frozenset({"completion", "chat"}), "m")
    assert failed.code == "unsupported_endpoint"
    assert failed.message == "The model 'm' does not support embedding requests; it supports: chat, completion."


def complaint(kind: str, loc: tuple[Any, ...], msg: str = "is wrong", **more: Any) -> dict[str, Any]:
    return {"type": kind, "loc": loc, "msg": msg} | more


def test_the_field_is_the_path_into_the_body_without_names_of_types() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": SECRET}]}]}
    loc = ("messages", "list[union]", 0, "typed-dict", "content", "list[x]", 0, "type")
    failed = invalid_body(body, [complaint("literal_error", loc)])
    assert failed.param == "messages.0.content.0.type"
    assert failed.message == "messages.0.content.0.type: is wrong"


def test_a_missing_field_is_named() -> None:
    assert invalid_body({}, [complaint("missing", ("SomeRequest", "messages"), "Field required")]).param == "messages"


def test_of_several_complaints_the_nearest_is_told() -> None:
    body = {"stop": [SECRET] * 9}
    complaints = [
        complaint("string_type", ("stop", "str"), "should be a string"),
        complaint("too_long", ("stop", "list[str]"), "has too many items"),
    ]
    assert invalid_body(body, complaints).message == "stop: has too many items"


def test_a_validator_of_vllm_may_name_the_field() -> None:
    cause = SimpleNamespace(parameter="top_logprobs")
    failed = invalid_body({}, [complaint("value_error", (), "Value error, must be set", ctx={"error": cause})])
    assert (failed.message, failed.param) == ("must be set", "top_logprobs")
    assert invalid_body({}, []).code == "invalid_request"
