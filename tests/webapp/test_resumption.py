"""Event ids, and going on behind one of them: no token twice, none missing."""

from __future__ import annotations

from itertools import chain

import pytest
from openai._streaming import SSEDecoder

from tasks.errors import InvalidRequestError
from tasks.messages import Delta, Done, Event, Failed, Started
from tests.fakes import FakeAnswer
from webapp import sse
from webapp.openai.resumption import NumberedAnswer, Position, position

SCRIPT: list[Event] = [
    Started("r1", 7),
    Delta(b'data: "a"\n\ndata: "b"\n\ndata: "c"\n\n'),
    Delta(b'data: "d"\n\n'),
    Started("r2", 1900, after="7-2"),
    Delta(b'data: "e"\n\ndata: "f"\n\n'),
]
NUMBERED = [
    ("7-1-0", '"a"'),
    ("7-1-1", '"b"'),
    ("7-1-2", '"c"'),
    ("7-2-0", '"d"'),
    ("1900-1-0", '"e"'),
    ("1900-1-1", '"f"'),
]


def numbered(*script: Event, after: Position | None = None, is_stream: bool = True) -> NumberedAnswer:
    return NumberedAnswer(FakeAnswer(script), is_stream=is_stream, after=after)


def read(answer: NumberedAnswer) -> tuple[bytes, Event]:
    """Return all frames, and the event that ended the answer."""
    frames = b""
    while (event := answer.next(1.0)) is not None:
        if isinstance(event, Delta):
            frames += event.frames
        elif not isinstance(event, Started):
            return frames, event
    raise AssertionError("the answer did not end")


def events(data: bytes) -> list[tuple[str, str]]:
    """Parse as openai-python does."""
    return [(event.id or "", event.data) for event in SSEDecoder().iter_bytes(iter([data]))]


def test_every_frame_has_an_id_of_its_own() -> None:
    frames, end = read(numbered(*SCRIPT, Done()))
    assert events(frames) == NUMBERED
    assert frames.startswith(b'id: 7-1-0\ndata: "a"\n\nid: 7-1-1\ndata: "b"\n\n')
    assert end == Done()


@pytest.mark.parametrize("seen", range(len(NUMBERED)))
def test_an_answer_goes_on_exactly_behind_any_of_its_events(seen: int) -> None:
    after = position(NUMBERED[seen][0])
    frames, _ = read(numbered(*SCRIPT, Done(), after=after))
    assert events(frames) == NUMBERED[seen + 1 :]


@pytest.mark.parametrize("event_id", ["7-1-3", "7-3-0", "8-1-0", "6-1-0", "0-0-0", "1900-2-0", "9999-1-0"])
def test_an_event_that_never_was_is_refused(event_id: str) -> None:
    with pytest.raises(InvalidRequestError, match="Last-Event-ID"):
        read(numbered(*SCRIPT, Done(), after=position(event_id)))


def test_a_failure_is_told_whatever_was_seen() -> None:
    failed = Failed("engine_failed", "It broke.")
    assert read(numbered(*SCRIPT, failed, after=Position((9999, 1), 0))) == (b"", failed)


def test_silence_is_passed_on() -> None:
    answer = numbered(Started("r1", 7), after=Position((7, 1), 0))
    assert answer.next(0.0) == Started("r1", 7)
    assert answer.next(0.0) is None


@pytest.mark.parametrize(
    "event_id",
    [
        "1",
        "1-2",
        "1-2-3-4",
        "a-b-c",
        "1-2-",
        "-1-2",
        "1 -2-3",
        "1-2-3 ",
        "\u0661-2-3",
        "1" * 20 + "-1-1",
        "1-1-" + "9" * 10,
    ],
)
def test_what_is_no_event_id_is_refused(event_id: str) -> None:
    with pytest.raises(InvalidRequestError, match="Last-Event-ID"):
        position(event_id)


def test_an_answer_in_one_piece_is_one_event() -> None:
    done = Done(body=b'{"id":"x",\n"n":1}')
    frames, end = read(numbered(Started("r1", 7), done, is_stream=False))
    assert events(frames) == [("end", '{"id":"x", "n":1}')]
    assert end == done


def test_an_answer_in_one_piece_has_no_middle() -> None:
    with pytest.raises(InvalidRequestError, match="Last-Event-ID"):
        read(numbered(Started("r1", 7), Done(body=b"{}"), is_stream=False, after=Position((7, 1), 0)))


def test_it_lets_go_of_the_answer_behind_it() -> None:
    inner = FakeAnswer([])
    inner.request_id = "req_1"
    answer = NumberedAnswer(inner, is_stream=True)
    answer.abandon()
    answer.close()
    assert (answer.request_id, inner.abandoned, inner.closed) == ("req_1", True, True)


def test_a_ping_between_ids_is_no_event_to_openais_client() -> None:
    # A comment with a blank line behind it would be one, with data that is no JSON.
    parts = [b'id: 1-1-0\ndata: "a"\n\n', sse.NUMBERED.ping, sse.NUMBERED.ping, b'id: 1-2-0\ndata: "b"\n\n']
    assert [data for _, data in events(b"".join(parts))] == ['"a"', '"b"']
    split = (bytes([byte]) for byte in chain.from_iterable(parts))
    assert [event.data for event in SSEDecoder().iter_bytes(split)] == ['"a"', '"b"']
