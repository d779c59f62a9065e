"""What a stream says of itself while its request waits: comments only, whatever there is to say."""

from __future__ import annotations

import pytest

from tasks.messages import Delta, Done, Event, Started
from tasks.requests.cold_start import Standing
from tests.fakes import Silence
from tests.webapp.test_relay import Play
from webapp import sse
from webapp.openai.keep_alive import KeepAlive, progress
from webapp.openai.relay import stream

LOADING = Standing(state="loading", text="it is being loaded", position=3, progress=0.404)
A = Delta(b'data: {"a":1}\n\n')


def played(*script: Event | Silence, standings: list[Standing | None]) -> list[bytes]:
    play = Play(*script)
    play.answer.standings.extend(standings)
    return list(stream(play.followed, commit_after_s=1.0, ping_s=10.0, progress=True))


def test_a_waiting_request_says_how_it_stands() -> None:
    assert progress(LOADING) == "celerity position=3 state=loading percent=40 text=it is being loaded"
    assert progress(Standing(state="queued", text="t")) == "celerity state=queued text=t"


def test_it_is_said_every_two_seconds_until_a_worker_has_it() -> None:
    nearer = Standing(state="loading", text="it is being loaded", position=1, progress=0.9)
    pieces = played(Silence(4.0), Started("r1", 1), Silence(13.0), A, Done(), standings=[LOADING, nearer, None])
    assert pieces == [
        b": celerity position=3 state=loading percent=40 text=it is being loaded\n\n",
        b": celerity position=1 state=loading percent=90 text=it is being loaded\n\n",
        sse.PING,  # it was taken while we asked
        sse.PING,
        A.frames + sse.DONE,
    ]


def test_a_request_that_was_given_up_by_its_worker_is_told_again() -> None:
    keep_alive = KeepAlive(sse.PLAIN, 10.0, iter([None, LOADING]).__next__)
    assert keep_alive.every_s == 2.0
    assert keep_alive.comment() == sse.PING
    assert keep_alive.every_s == 10.0
    assert b"position=3" in keep_alive.comment()
    assert keep_alive.every_s == 2.0


def test_who_did_not_ask_gets_pings() -> None:
    keep_alive = KeepAlive(sse.PLAIN, 10.0)
    assert (keep_alive.comment(), keep_alive.every_s) == (sse.PING, 10.0)


@pytest.mark.parametrize("dialect", [sse.PLAIN, sse.NUMBERED])
def test_a_comment_is_one_line_that_no_client_takes_for_a_field(dialect: sse.Dialect) -> None:
    comment = dialect.comment("celerity text=a\n\ndata: x\nid: 7\r\nevent: y")
    assert comment.rstrip(b"\n") == b": celerity text=a data: x id: 7 event: y"
    assert b"\r" not in comment
    assert (comment.endswith(b"\n\n")) is (dialect is sse.PLAIN)
