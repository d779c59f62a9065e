"""Follow an answer for the current Flask request, and return it as a response."""

from __future__ import annotations

from flask import Response, g, request

from tasks.requests.dispatch import Answer
from webapp import sse
from webapp.connection import ClientConnection
from webapp.flask_app import Reply
from webapp.gateway import Gateway
from webapp.openai.deadlines import Deadlines, Limits
from webapp.openai.relay import Begun, Followed, collect, stream
from webapp.openai.tally import Account

_SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would keep the tokens until it has a page of them
}

# Only who has the header knows where to come back to, or sees how far its model's load is; after that, most
# refusals have shown.
_EARLY_COMMIT_AFTER_S = 1.0


def follow(
    gateway: Gateway,
    answer: Answer,
    account: Account,
    *,
    limits: Limits,
    since: float,
    is_stream: bool,
    farewell: str,
) -> Followed:
    """Put `answer` under its limits, which run from `since`, and under a watch for its client's leaving.

    `farewell` is told to the client when the process has to end before the answer.
    """
    g.accepted = True
    connection = request.environ.get("gunicorn.socket")
    if not isinstance(connection, ClientConnection):
        connection = None
    return Followed(
        answer,
        deadlines=Deadlines(limits, now=since, stream=is_stream),
        account=account,
        drain=gateway.drain,
        clock=gateway.clock,
        unwatch=connection.watch(answer.abandon).stop if connection else _nothing,
        outlet=connection,
        farewell=farewell,
    )


def _nothing() -> None:
    """What there is to do about the connection of a client that has none of ours."""


def limits_of(gateway: Gateway, *, queue_wait_s: float) -> Limits:
    settings = gateway.settings
    return Limits(
        queue_wait_s=queue_wait_s,
        first_token_s=settings.first_token_timeout_s,
        silence_s=settings.silence_timeout_s,
        total_s=settings.total_timeout_s,
    )


def streamed(gateway: Gateway, followed: Followed, dialect: sse.Dialect, *, progress: bool) -> Response:
    """Answer piece by piece. Waits for the first; raises the ServingError that comes before it."""
    settings = gateway.settings
    commit_after_s = settings.commit_after_s
    if progress or dialect is sse.NUMBERED:
        commit_after_s = min(commit_after_s, _EARLY_COMMIT_AFTER_S)
    pieces = stream(
        followed,
        commit_after_s=commit_after_s,
        ping_s=settings.ping_interval_s,
        dialect=dialect,
        progress=progress,
    )
    return Reply(Begun(pieces), _SSE_HEADERS)


def whole(followed: Followed) -> Response:
    """Answer in one piece, once it is there. Raises the ServingError it ended with."""
    body = collect(followed).body
    return Reply([body], {"Content-Type": "application/json", "Content-Length": str(len(body))})
