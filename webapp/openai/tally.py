"""Times, metrics and the one log line of a request, or of another look at its answer."""

from __future__ import annotations

import logging
from typing import Protocol

from tasks import metrics
from tasks.messages import Call, Delta, Done, Event, Failed, Started
from tasks.queues import Priority

log = logging.getLogger(__name__)

DETACHED = "detached"
"""How a call has gone that goes on though nobody reads its answer any more."""


class Account(Protocol):
    """Who wants to know what is read of an answer, and when. `now` is the gateway's monotonic clock."""

    def saw(self, event: Event, now: float) -> None: ...

    def end(self, code: str, now: float) -> None:
        """Close the account, once: `code` is "ok" or an error's code."""
        ...


class Reading:
    """The account of somebody who reads an answer again, which is counted elsewhere: a log line, no metrics."""

    def __init__(self, request_id: str, *, now: float) -> None:
        self._request_id = request_id
        self._began_at = now

    def saw(self, event: Event, now: float) -> None:
        pass

    def end(self, code: str, now: float) -> None:
        fields = {"event": "answer_read", "request": self._request_id, "code": code}
        log.info("answer read", extra=fields | {"took_s": round(now - self._began_at, 4)})


class Tally:
    """What happened to one accepted call, and when."""

    def __init__(self, call: Call, *, now: float, label: str | None = None) -> None:
        """`label` is the client's own name for the request."""
        self._call = call
        self._metrics = metrics.of_model(call.model)
        self._label = label
        self._accepted_at = now
        self._started_after: float | None = None
        self._first_after: float | None = None
        self._done: Done | None = None
        self._ended = False
        self._metrics.in_flight.inc()

    def saw(self, event: Event, now: float) -> None:
        match event:
            case Delta():
                if self._first_after is None:
                    self._first_after = now - self._accepted_at
                    self._metrics.time_to_first_token.observe(self._first_after)
            case Started():
                if self._started_after is None:
                    self._started_after = now - self._accepted_at
                    self._metrics.queue_time.observe(self._started_after)
            case Done():
                self._done = event
                self._ended = True
            case Failed():
                self._ended = True

    def end(self, code: str, now: float) -> None:
        call, took = self._call, now - self._accepted_at
        if call.keep_s and not self._ended:
            code = DETACHED
        self._metrics.in_flight.dec()
        metrics.ended(call.endpoint.value, call.model, metrics.known_code(code)).inc()
        if code != DETACHED:
            metrics.latency(call.endpoint.value, call.model).observe(took)
        fields: dict[str, object] = {
            "event": "request_ended",
            "request": call.id,
            "endpoint": call.endpoint.value,
            "model": call.model,
            "stream": call.stream,
            "code": code,
            "took_s": round(took, 4),
        }
        if call.priority is not Priority.INTERACTIVE:
            fields["priority"] = call.priority.name.lower()
        if self._label:
            fields["client_request_id"] = self._label
        if self._started_after is not None:
            fields["queued_s"] = round(self._started_after, 4)
        if self._first_after is not None:
            fields["ttft_s"] = round(self._first_after, 4)
        if self._done is not None:
            self._metrics.prompt_tokens.inc(self._done.prompt_tokens)
            self._metrics.generation_tokens.inc(self._done.completion_tokens)
            fields["prompt_tokens"] = self._done.prompt_tokens
            fields["completion_tokens"] = self._done.completion_tokens
            fields["finish_reason"] = self._done.finish_reason
        log.info("request ended", extra=fields)
