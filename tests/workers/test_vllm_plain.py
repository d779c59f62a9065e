"""Which bodies lead to an answer that is text alone."""

from __future__ import annotations

from typing import Any

import pytest

from workers.engine.vllm_plain import is_plain

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 1, "temperature": 0, "seed": 7, "stop": ["x"], "ignore_eos": True},
        {"stream_options": {"include_usage": True}, "user": "someone"},
        {"n": 1, "tools": None, "tool_choice": "none", "logprobs": False, "response_format": {"type": "text"}},
    ],
)
def test_a_chat_that_asks_for_text_is_plain(fields: dict[str, Any]) -> None:
    assert is_plain("chat", CHAT | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"n": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "auto"},
        {"tool_choice": None},
        {"logprobs": True},
        {"echo": True},
        {"response_format": {"type": "json_object"}},
        {"return_token_ids": True},
        {"chat_template_kwargs": {}},
        {"a_field_of_tomorrow": 1},
    ],
)
def test_a_chat_that_asks_for_more_is_not(fields: dict[str, Any]) -> None:
    assert not is_plain("chat", CHAT | fields)


def test_a_completion_has_one_prompt_and_no_log_probabilities() -> None:
    assert is_plain("completion", {"prompt": "hi", "max_tokens": 3})
    assert not is_plain("completion", {"prompt": ["hi", "ho"]})
    assert not is_plain("completion", {"prompt": [1, 2]})
    assert not is_plain("completion", {"prompt": "hi", "logprobs": 0})


def test_an_embedding_is_never_plain() -> None:
    assert not is_plain("embedding", {"input": "hi"})
