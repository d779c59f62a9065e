"""Samples of vLLM's become patterns, and patterns become frames."""

from __future__ import annotations

import pytest

from workers.engine.vllm_patterns import FINISH, ID, TEXT, Pattern, PatternError

SAMPLE = f'data: {{"id":"{ID}","created":17,"choices":[{{"text":"{TEXT}","finish_reason":"{FINISH}"}}]}}\n\n'
SLOTS = ("id", "created", "text", "finish")


def test_a_pattern_gives_its_sample_back() -> None:
    pattern = Pattern.cut(SAMPLE, *SLOTS)
    values = {"id": f'"{ID}"', "created": "17", "text": f'"{TEXT}"', "finish": f'"{FINISH}"'}
    assert pattern.fill({name: value.encode() for name, value in values.items()}).decode() == SAMPLE


def test_what_is_bound_stays_for_every_filling() -> None:
    pattern = Pattern.cut(SAMPLE, *SLOTS).bind({"id": b'"a"', "created": b"5", "finish": b"null"})
    assert pattern.slots == ("text",)
    expected = b'data: {"id":"a","created":5,"choices":[{"text":"hi","finish_reason":null}]}\n\n'
    assert pattern.fill({"text": b'"hi"'}) == expected
    head, tail = pattern.pieces
    assert head + b'"hi"' + tail == expected


def test_counts_are_found_by_the_names_of_their_fields() -> None:
    sample = '{"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}}'
    pattern = Pattern.cut(sample, "prompt", "completion", "total")
    filled = pattern.fill({"prompt": b"7", "completion": b"8", "total": b"15"})
    assert filled == b'{"usage":{"prompt_tokens":7,"total_tokens":15,"completion_tokens":8}}'


@pytest.mark.parametrize("slots", [(), ("id", "created", "text"), (*SLOTS, "stop"), (*SLOTS, "text")])
def test_a_sample_with_other_slots_is_refused(slots: tuple[str, ...]) -> None:
    with pytest.raises(PatternError):
        Pattern.cut(SAMPLE, *slots)
