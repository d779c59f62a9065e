"""A job's tape: which trail goes with which frame, and which frames are not sent again."""

from __future__ import annotations

import asyncio

import pytest

from tests.workers.test_vllm_trail import Completion
from workers.engine.base import Frames, Job, RequestRefusedError, Resume
from workers.engine.vllm_tape import Tape


def frame(content: str, *, created: int = 2000, extra: str = "") -> str:
    head = f'{{"id":"chatcmpl-a","object":"chat.completion.chunk","created":{created},"model":"m"'
    return f'data: {head},"choices":[{{"index":0,"delta":{{"content":"{content}"{extra}}}}}]}}\n\n'


def resumed(frames: int, *trail: bytes) -> Tape:
    first = frame("", created=1000).encode()
    return Tape(
        Job(id="a", endpoint="chat", body=b"{}", stream=True, resume=Resume(frames=frames, first=first, trail=trail))
    )


def fresh(told: list[int] | None = None) -> Tape:
    told = [] if told is None else told
    return Tape(Job(id="a", endpoint="chat", body=b"{}", stream=True, on_token=lambda: told.append(1)))


def trail_of(frames: Frames | None) -> bytes | None:
    assert frames is not None
    return frames.trail


def test_a_trail_goes_with_the_next_frame() -> None:
    tape = fresh()
    tape.heard(0, [Completion([1])])
    assert trail_of(tape.frames(frame("role"))) == b"1"
    assert trail_of(tape.frames(frame("one"))) == b""
    tape.heard(0, [Completion([2])])
    tape.heard(0, [Completion([3])])  # a parser kept the second back
    assert trail_of(tape.frames(frame("three"))) == b"2;3"


def test_the_first_token_is_told_once() -> None:
    told: list[int] = []
    tape = fresh(told)
    for token in (1, 2):
        tape.heard(0, [Completion([token])])
    tape.token()
    assert told == [1]


def test_nothing_is_left_behind_of_what_must_not_be_spliced() -> None:
    tape = fresh()
    tape.seal()
    tape.heard(0, [Completion([1])])
    assert trail_of(tape.frames(frame("{"))) is None


def test_the_trail_ends_where_a_tool_call_begins_and_not_where_one_is_talked_about() -> None:
    tape = fresh()
    tape.heard(0, [Completion([1])])
    assert trail_of(tape.frames(frame(r"\"tool_calls\": "))) == b"1"
    tape.heard(0, [Completion([2])])
    assert trail_of(tape.frames(frame("", extra=',"tool_calls":[]'))) is None
    assert trail_of(tape.frames(frame("after"))) is None


def test_frames_that_the_client_has_are_not_sent_again_and_the_rest_looks_like_them() -> None:
    tape = resumed(2, b"1", b"2")
    assert [output.said[0].tokens for output in tape.past] == [(1,), (2,)]
    assert [tape.frames(frame("role")), tape.frames(frame("one"))] == [None, None]
    two = tape.frames(frame("two"))
    assert two == Frames(frame("two", created=1000).encode(), b"")
    tape.heard(0, [Completion([3])])
    assert trail_of(tape.frames(frame("three"))) == b"3"
    tape.end()


def test_text_that_looks_like_the_head_of_a_frame_stays_as_it_is() -> None:
    tape = resumed(1, b"1")
    tape.frames(frame("role"))
    said = r"data: {\"id\":\"x\",\"object\":\"y\",\"created\":5"
    assert tape.frames(frame(said)) == Frames(frame(said, created=1000).encode(), b"")


def test_frames_that_the_trail_does_not_explain_are_refused() -> None:
    early, late = resumed(3, b"1"), resumed(3, b"1")
    early.next_prompt()
    early.frames(frame("role"))
    early.heard(0, [Completion([2])])
    with pytest.raises(RequestRefusedError):
        early.frames(frame("two"))
    late.frames(frame("role"))
    with pytest.raises(RequestRefusedError):
        late.end()


@pytest.mark.parametrize(
    ("first", "trail"), [(b"data: {}\n\n", b"1"), (frame("").encode(), b"elsewhere"), (frame("").encode(), b"")]
)
def test_what_cannot_be_read_is_refused(first: bytes, trail: bytes) -> None:
    lost = Resume(frames=1, first=first, trail=(trail,))
    with pytest.raises(RequestRefusedError) as refused:
        Tape(Job(id="a", endpoint="chat", body=b"{}", stream=True, resume=lost))
    assert refused.value.code == "engine_failed"


def test_prompts_are_played_in_the_order_in_which_they_were_heard() -> None:
    tape = resumed(1, b"1@11;10", b"1@12")
    order: list[int] = []

    async def play(prompt: int) -> None:
        for place, output in tape.past_of(prompt):
            await tape.wait_for(place)
            order.append(output.said[0].tokens[0])
            tape.played(place)
        await tape.wait_for(len(tape.past))
        order.append(prompt)

    async def both() -> None:
        await asyncio.gather(play(tape.next_prompt()), play(tape.next_prompt()))

    asyncio.run(both())
    assert order[:3] == [11, 10, 12]
    assert sorted(order[3:]) == [0, 1]
