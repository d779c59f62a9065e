"""One client with a socket of its own: sends a request, reads the answer, and says how it went."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.answer import DirtyError, ErrorEvent, StreamedAnswer, checked_error, whole
from tests.faults.outcome import Kind, Outcome

# Silence on the socket that counts as a hang; a live stream gets a comment every ten seconds.
SILENCE_S = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to ask, and what must come back."""

    model: str
    prompt: str
    expected: str
    tokens: int
    stream: bool = True
    resumable: bool = False
    deadline_s: float = 120.0
    headers: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    """More fields of the body."""

    def body(self) -> bytes:
        fields = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.tokens,
            "temperature": 0,
            "stream": self.stream,
        }
        return json.dumps(fields | self.extra).encode()

    def all_headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", **self.headers}
        return headers | ({"X-Celerity-Resumable": "true"} if self.resumable else {})


class UnreachedError(Exception):
    """Nobody listened at the port: nothing was sent, so another gateway may be asked."""


def ask(port: int, what: Ask, *, on_frame: Callable[[Outcome, int], object] = lambda *_: None) -> Outcome:
    """Ask once. `on_frame` gets the outcome so far and how many frames have come.

    Raises UnreachedError when there is no gateway at `port`.
    """
    outcome = Outcome(model=what.model, stream=what.stream, began=time.monotonic())
    answer = StreamedAnswer(what.expected)
    _attempt(port, what, answer, outcome, on_frame)
    return outcome


def follow(port: int, what: Ask, answer: StreamedAnswer, outcome: Outcome) -> None:
    """Go on reading a resumable answer at another gateway. Raises UnreachedError."""
    outcome.reconnects += 1
    answer.reconnect()
    _attempt(port, what, answer, outcome, lambda *_: None, again=True)


def ask_resumable(
    ports: Callable[[], int],
    what: Ask,
    *,
    within_s: float = 60.0,
    on_frame: Callable[[Outcome, int], object] = lambda *_: None,
) -> Outcome:
    """Ask, and reconnect with the last event's id for as long as the connection breaks."""
    outcome = Outcome(model=what.model, stream=True, began=time.monotonic(), resumable=True)
    answer = StreamedAnswer(what.expected)
    give_up = time.monotonic() + within_s
    port = ports()
    while True:
        try:
            if outcome.accepted:
                follow(port, what, answer, outcome)
            else:
                _attempt(port, what, answer, outcome, on_frame)
        except UnreachedError:
            pass
        else:
            if not _may_reconnect(outcome) or time.monotonic() > give_up:
                return outcome
        time.sleep(0.2)
        port = ports()
        if time.monotonic() > give_up:
            outcome.ended = time.monotonic()
            outcome.why = outcome.why or "no gateway could be reached"
            return outcome


def _may_reconnect(outcome: Outcome) -> bool:
    """Say whether a client would go on: the answer had begun, or the server said that it stops."""
    leaving = outcome.kind is Kind.FAILED and outcome.code == "service_unavailable"
    return leaving or (outcome.accepted and outcome.kind is Kind.CUT)


def _attempt(
    port: int,
    what: Ask,
    answer: StreamedAnswer,
    outcome: Outcome,
    on_frame: Callable[[Outcome, int], object],
    *,
    again: bool = False,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SILENCE_S)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise UnreachedError(str(error)) from error
        try:
            _send(connection, what, outcome, again=again)
            _read(connection, what, answer, outcome, on_frame)
        except ErrorEvent as error:
            outcome.kind, outcome.code, outcome.why = Kind.FAILED, error.code, f"error event: {error.code}"
        except DirtyError as error:
            outcome.kind, outcome.why = Kind.DIRTY, str(error)
        except TimeoutError:
            outcome.kind, outcome.why = Kind.DIRTY, f"silent for {SILENCE_S} s"
        except (OSError, http.client.HTTPException) as error:
            outcome.kind, outcome.why = Kind.CUT, type(error).__name__
        except (ValueError, KeyError, TypeError) as error:
            outcome.kind, outcome.why = Kind.DIRTY, f"unreadable: {type(error).__name__}: {error}"
    finally:
        connection.close()
        outcome.ended = time.monotonic()
        outcome.text, outcome.last_event_id = answer.text or outcome.text, answer.last_event_id


def _send(connection: http.client.HTTPConnection, what: Ask, outcome: Outcome, *, again: bool) -> None:
    if not again:
        connection.request("POST", "/v1/chat/completions", what.body(), what.all_headers())
        return
    headers = what.headers | ({"Last-Event-ID": outcome.last_event_id} if outcome.last_event_id else {})
    connection.request("GET", f"/v1/chat/completions/{outcome.request_id}/events", headers=headers)


def _read(
    connection: http.client.HTTPConnection,
    what: Ask,
    answer: StreamedAnswer,
    outcome: Outcome,
    on_frame: Callable[[Outcome, int], object],
) -> None:
    response = connection.getresponse()
    outcome.status = response.status
    outcome.request_id = response.headers.get("x-request-id", "") or outcome.request_id
    outcome.should_retry = response.headers.get("x-should-retry", "")
    outcome.retry_after = response.headers.get("retry-after", "")
    if response.status != 200:
        error = checked_error(json.loads(response.read()))
        outcome.kind, outcome.code = Kind.FAILED, str(error["code"])
        outcome.why = f"{response.status} {error['code']}: {error['message']}"
        return
    outcome.accepted = True
    if not what.stream:
        outcome.text = whole(response.read(), what.expected)
        outcome.first_s = time.monotonic() - outcome.began
    else:
        with contextlib.closing(response):
            _read_stream(response, what, answer, outcome, on_frame)
    outcome.kind, outcome.why, outcome.code = Kind.CLEAN, "", ""


def _read_stream(
    response: http.client.HTTPResponse,
    what: Ask,
    answer: StreamedAnswer,
    outcome: Outcome,
    on_frame: Callable[[Outcome, int], object],
) -> None:
    last = time.monotonic()
    while data := response.read1(65536):
        now = time.monotonic()
        if answer.feed(data):
            if answer.frames and not outcome.first_s:
                outcome.first_s = now - outcome.began
            else:
                outcome.gap_s = max(outcome.gap_s, now - last)
            last = now
            on_frame(outcome, answer.frames)
        if now - outcome.began > what.deadline_s:
            raise DirtyError(f"not at its end after {what.deadline_s} s")
    answer.end()
