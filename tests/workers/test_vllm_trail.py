"""What vLLM said is written down briefly, and read as it was said."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from workers.engine.vllm_trail import Output, Said, TrailError, decode, encode


@dataclass
class Completion:
    """The part of vLLM's `CompletionOutput` that is written down."""

    token_ids: list[int]
    index: int = 0
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@pytest.mark.parametrize(
    ("prompt", "completions", "text"),
    [
        (0, [Completion([9906])], "9906"),
        (0, [Completion([1, 2, 3])], "1,2,3"),
        (0, [Completion([1], 0), Completion([2], 1)], "1|1:2"),
        (3, [Completion([1], 2)], "3@2:1"),
        (0, [Completion([], 1)], "1:"),
        (0, [Completion([7], finish_reason="length")], "7!length"),
        (0, [Completion([7], finish_reason="stop")], "7!stop"),
        (0, [Completion([7], finish_reason="stop", stop_reason=2)], "7!stop=2"),
        (0, [Completion([7], finish_reason="stop", stop_reason="a;b|c!\n")], "7!text"),
        (0, [Completion([], finish_reason="abort")], "!abort"),
    ],
)
def test_an_output_is_written_and_read(prompt: int, completions: list[Completion], text: str) -> None:
    assert encode(prompt, completions) == text
    (read,) = decode([text.encode()])
    assert read.prompt == prompt
    for completion, said in zip(completions, read.said, strict=True):
        assert (said.choice, list(said.tokens)) == (completion.index, completion.token_ids)
        assert said.finish == ("text" if isinstance(completion.stop_reason, str) else completion.finish_reason)
        assert said.stop_token == (completion.stop_reason if isinstance(completion.stop_reason, int) else None)


def test_lines_and_their_parts_are_read_in_order_and_empty_ones_say_nothing() -> None:
    assert [output.said[0].tokens for output in decode([b"1;2,3", b"", b"4"])] == [(1,), (2, 3), (4,)]
    assert decode([b"5@6:7"]) == [Output(5, (Said(6, (7,)),))]


@pytest.mark.parametrize("line", [b"elsewhere", b"1,x", b"x@1", b"x:1", b"1!stop=x", b"\xff", b"1,,2"])
def test_what_was_never_written_is_refused(line: bytes) -> None:
    with pytest.raises(TrailError):
        decode([line])
