"""From events to bytes: what is held back, what is said when it goes wrong, and that every call is let go of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.errors import (
    DeadlineExceededError,
    ModelLoadFailedError,
    RequestCancelledError,
    ServiceUnavailableError,
    ServingError,
)
from tasks.messages import Call, Delta, Done, Endpoint, Event, Failed, Started
from tests.fakes import FakeAnswer, FakeClock, Silence
from webapp import sse
from webapp.drain import Drain
from webapp.openai.deadlines import Deadlines, Limits
from webapp.openai.relay import Begun, Followed, collect, stream
from webapp.openai.tally import Tally

A, B = Delta(b'data: {"a":1}\n\n'), Delta(b'data: {"b":2}\n\n')
STARTED = Started("r1", 1)
DONE = Done(finish_reason="stop", prompt_tokens=3, completion_tokens=2, body=b'{"whole":true}')
LIMITS = Limits(queue_wait_s=50.0, first_token_s=20.0, silence_s=30.0, total_s=100.0)


class FakeOutlet:
    """A client that takes so many forwarded pieces, and then no more at once."""

    def __init__(self, takes: int = 1000) -> None:
        self.takes = takes
        self.forwarded: list[bytes] = []
        self.flushed = 0

    def hold(self) -> None: ...

    def forward(self, piece: bytes) -> bool:
        self.forwarded.append(piece)
        self.takes -= 1
        return self.takes >= 0

    def flush(self) -> None:
        self.flushed += 1


class Play:
    """One scripted answer, followed."""

    def __init__(
        self, *script: Event | Silence | ServingError, is_stream: bool = True, outlet: FakeOutlet | None = None
    ) -> None:
        self.clock = FakeClock()
        self.answer = FakeAnswer(script, self.clock)
        self.drain = Drain()
        self.unwatched = 0
        call = Call(id="req_1", model="demo", endpoint=Endpoint.CHAT, body=b"{}", stream=is_stream, gateway="")
        self.followed = Followed(
            self.answer,
            deadlines=Deadlines(LIMITS, now=self.clock(), stream=is_stream),
            account=Tally(call, now=self.clock()),
            drain=self.drain,
            clock=self.clock,
            unwatch=self._unwatch,
            outlet=outlet,
        )
        self.pieces = stream(self.followed, commit_after_s=15.0, ping_s=10.0)

    def _unwatch(self) -> None:
        self.unwatched += 1


def error_in(piece: bytes) -> dict[str, Any]:
    assert piece.startswith(b"data: ")
    assert piece.endswith(b"\n\n")
    error: dict[str, Any] = json.loads(piece[6:])["error"]
    return error


def test_frames_pass_untouched_and_done_ends_them() -> None:
    play = Play(STARTED, A, Silence(0.1), B, Silence(0.1), DONE)
    assert list(play.pieces) == [A.frames, B.frames, sse.DONE]
    assert play.answer.closed
    assert not play.answer.cancelled
    assert play.unwatched == 1


def test_what_is_there_already_goes_into_one_write() -> None:
    assert list(Play(STARTED, A, B, A, DONE).pieces) == [A.frames + B.frames + A.frames + sse.DONE]
    assert list(Play(STARTED, A, B, Silence(1), A, DONE).pieces) == [A.frames + B.frames, A.frames + sse.DONE]


def test_a_stream_without_a_token_is_still_done() -> None:
    assert list(Play(STARTED, DONE).pieces) == [sse.DONE]


def test_a_failure_before_the_first_byte_keeps_its_status() -> None:
    play = Play(STARTED, Silence(14.0), Failed("model_load_failed", "No room."))
    with pytest.raises(ModelLoadFailedError, match="No room"):
        next(play.pieces)
    assert play.answer.closed
    assert play.unwatched == 1


def test_the_status_goes_out_after_a_while_and_pings_follow() -> None:
    play = Play(Silence(36.0), STARTED, A, DONE)
    assert list(play.pieces) == [sse.PING, sse.PING, sse.PING, A.frames + sse.DONE]


def test_a_silence_between_tokens_is_filled_with_pings() -> None:
    assert list(Play(STARTED, A, Silence(25.0), B, DONE).pieces) == [
        A.frames,
        sse.PING,
        sse.PING,
        B.frames + sse.DONE,
    ]


def test_frames_after_the_first_are_forwarded_and_the_end_is_not() -> None:
    outlet = FakeOutlet()
    play = Play(STARTED, Silence(1), A, Silence(1), B, Silence(1), A, B, Silence(1), B, DONE, outlet=outlet)
    assert list(play.pieces) == [A.frames, B.frames + sse.DONE]
    assert outlet.forwarded == [B.frames, A.frames + B.frames]
    assert not outlet.flushed


def test_a_client_that_does_not_take_what_is_forwarded_is_waited_for() -> None:
    outlet = FakeOutlet(takes=1)
    play = Play(STARTED, A, Silence(1), A, Silence(1), B, Silence(1), A, Silence(1), DONE, outlet=outlet)
    assert list(play.pieces) == [A.frames, sse.DONE]
    assert outlet.forwarded == [A.frames, B.frames, A.frames]
    assert outlet.flushed == 2


def test_forwarded_frames_are_no_silence() -> None:
    play = Play(STARTED, A, *(Silence(9), B) * 3, Silence(11), DONE, outlet=FakeOutlet())
    assert list(play.pieces) == [A.frames, sse.PING, sse.DONE]


def test_forwarded_frames_put_off_the_limit_of_silence_and_not_that_of_all() -> None:
    play = Play(STARTED, A, *(Silence(29), B) * 9, outlet=FakeOutlet())
    *pieces, error = play.pieces
    assert pieces == [A.frames, *[sse.PING] * len(pieces[1:])]
    assert "100 s" in error_in(error)["message"]
    assert play.clock.now == pytest.approx(200.0)
    play = Play(STARTED, A, Silence(29), B, Silence(31), B, outlet=FakeOutlet())
    assert "30 s" in error_in(list(play.pieces)[-1])["message"]


@pytest.mark.parametrize("before", [[STARTED, A, Silence(0.1)], [Silence(16.0), STARTED]])
def test_a_failure_after_the_first_byte_is_an_event_and_no_done(before: list[Event | Silence]) -> None:
    play = Play(*before, Failed("engine_failed", "It broke.", "x"))
    last = list(play.pieces)[-1]
    assert error_in(last) == {"message": "It broke.", "type": "server_error", "param": "x", "code": "engine_failed"}
    assert play.answer.closed


def test_a_failure_in_the_same_breath_as_a_token_comes_after_it() -> None:
    first, last = list(Play(STARTED, A, Failed("engine_failed", "It broke.")).pieces)
    assert first == A.frames
    assert error_in(last)["code"] == "engine_failed"


def test_another_worker_may_take_over_before_the_first_token() -> None:
    assert list(Play(STARTED, Silence(1.0), Started("r2", 2), A, DONE).pieces) == [A.frames + sse.DONE]


def test_another_worker_may_go_on_in_mid_stream() -> None:
    play = Play(STARTED, A, Silence(1.0), Started("r2", 2, after="1-1"), B, DONE)
    assert list(play.pieces) == [A.frames, B.frames + sse.DONE]
    assert not play.answer.cancelled


@pytest.mark.parametrize(
    ("script", "at", "says"),
    [
        ([Silence(1000.0)], 50.0, "queue"),
        ([Silence(40.0), STARTED, Silence(1000.0)], 60.0, "first token"),
        ([Silence(10.0), STARTED, Silence(10.0), Started("r2", 2), Silence(1000.0)], 40.0, "first token"),
        ([STARTED, A, Silence(1000.0)], 30.0, "further token"),
        ([STARTED, A, Silence(25.0), Started("r2", 2, after="1-1"), Silence(1000.0)], 45.0, "first token"),
        ([Silence(30.0), STARTED, *[A, Silence(25.0)] * 10], 100.0, "took longer"),
    ],
)
def test_each_wait_has_its_limit(script: list[Event | Silence], at: float, says: str) -> None:
    play = Play(*script)
    last = error_in(list(play.pieces)[-1])
    assert last["code"] == DeadlineExceededError.code
    assert says in last["message"]
    assert play.clock() == pytest.approx(100.0 + at)
    assert play.answer.cancelled


def test_a_limit_before_the_first_byte_is_a_status() -> None:
    play = Play(STARTED, Silence(5.0))
    play.clock.now += 60.0
    with pytest.raises(DeadlineExceededError):
        next(play.pieces)
    assert play.answer.cancelled


@pytest.mark.parametrize("pieces_read", [1, 2])
def test_a_client_that_leaves_cancels_its_call(pieces_read: int) -> None:
    play = Play(STARTED, A, Silence(1.0), B, Silence(1.0), DONE)
    for _ in range(pieces_read):
        next(play.pieces)
    play.pieces.close()
    assert play.answer.cancelled
    assert play.unwatched == 1


def test_a_client_seen_leaving_ends_the_wait() -> None:
    play = Play(STARTED, A, RequestCancelledError("gone"))
    list(play.pieces)
    assert play.answer.cancelled


def test_the_end_of_the_process_is_told_to_the_client() -> None:
    play = Play(STARTED, A, Silence(1.0), B, DONE)
    assert next(play.pieces) == A.frames
    play.drain.expire()
    (last,) = list(play.pieces)
    assert error_in(last)["code"] == ServiceUnavailableError.code
    assert play.answer.cancelled


def test_the_end_of_the_process_is_told_behind_a_burst() -> None:
    play = Play(STARTED, A, B, RequestCancelledError("stopped"))
    play.drain.expired = True
    first, last = list(play.pieces)
    assert first == A.frames + B.frames
    assert error_in(last)["code"] == ServiceUnavailableError.code


def test_the_drain_forgets_answers_that_ended() -> None:
    play = Play(STARTED, A, DONE)
    list(play.pieces)
    play.drain.expire()
    assert not play.answer.abandoned


def test_a_begun_stream_yields_its_first_piece_once() -> None:
    begun = Begun(Play(STARTED, A, Silence(0.1), B, DONE).pieces)
    assert list(begun) == [A.frames, B.frames + sse.DONE]


def test_a_begun_stream_that_nobody_reads_is_let_go_of() -> None:
    play = Play(STARTED, A, Silence(0.1), B, DONE)
    Begun(play.pieces).close()
    assert play.answer.cancelled


def test_a_whole_answer_is_returned_when_it_is_done() -> None:
    play = Play(Silence(40.0), STARTED, Silence(55.0), DONE, is_stream=False)
    assert collect(play.followed) == DONE
    assert play.answer.closed
    assert not play.answer.cancelled


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([Failed("context_length_exceeded", "Too long.", "messages")], ServingError),
        ([Silence(1000.0)], DeadlineExceededError),
        ([STARTED, Silence(1000.0)], DeadlineExceededError),
        ([RequestCancelledError("gone")], RequestCancelledError),
        ([ServiceUnavailableError("no Redis")], ServiceUnavailableError),
    ],
)
def test_a_whole_answer_that_fails_raises_and_is_let_go_of(
    script: list[Event | Silence | ServingError], expected: type[ServingError]
) -> None:
    play = Play(*script, is_stream=False)
    with pytest.raises(expected):
        collect(play.followed)
    assert play.answer.closed
    assert play.unwatched == 1
