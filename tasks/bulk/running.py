"""A line whose call is in Redis, and what becomes of it when the call ends. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.bulk.records import Outcome, Taken
from tasks.errors import BatchExpiredError, ServingError, error_of
from tasks.messages import Call, Done, Failed
from tasks.openai import faces

MAX_ATTEMPTS = 3
# What another worker, or the same one later, may do better. A limit on time is none of these: a line waits until
# its batch expires, so that only an answer itself can take too long, and would again.
_MAY_PASS = frozenset(
    {
        "engine_failed",
        "internal_error",
        "service_unavailable",
        "server_overloaded",
        "model_load_failed",
        "pool_exhausted",
    }
)
_FIRST_PAUSE_S = 1.0
_LONGER_BY = 5.0

# From the latest record to the first look, and from one look to the next.
_SILENT_S = 3.0
_LOOK_AGAIN_S = 5.0
_LONGEST_APART_S = 60.0


@dataclass(eq=False, slots=True, kw_only=True)
class Running:
    """Times are those of the monotonic clock."""

    taken: Taken
    call: Call
    """Without its body, which may be large."""
    heard_at: float
    last_id: bytes = b"0"
    started: bool = False
    """Whether a worker has it."""
    started_at: float | None = None
    """When that was last heard of."""
    looked_at: float = float("-inf")
    unclaimed_looks: int = 0

    def due(self, now: float) -> bool:
        """Say whether it was silent for long; what waits in a queue is looked at ever more seldom."""
        apart_s = min(_LOOK_AGAIN_S * max(1, self.unclaimed_looks), _LONGEST_APART_S)
        return now - self.heard_at > _SILENT_S and now - self.looked_at > apart_s


@dataclass(frozen=True, slots=True)
class Again:
    """The line is to be tried once more, after a pause."""

    pause_s: float


def verdict(taken: Taken, end: Done | Failed) -> Outcome | Again:
    """Return what becomes of a line whose call has ended so."""
    if isinstance(end, Done):
        return Outcome(
            batch=taken.batch,
            number=taken.line.number,
            request_id=taken.request_id,
            status_code=200,
            body=end.body,
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
        )
    if end.code in _MAY_PASS and not end.final and taken.attempt < MAX_ATTEMPTS:
        return Again(_FIRST_PAUSE_S * _LONGER_BY ** (taken.attempt - 1))
    return failure(taken, error_of(end.code, end.message, end.param, final=end.final))


def failure(taken: Taken, error: ServingError) -> Outcome:
    """Return the outcome of a line that was answered with an error."""
    return Outcome(
        batch=taken.batch,
        number=taken.line.number,
        request_id=taken.request_id,
        status_code=faces.face_of(error.code).status,
        body=faces.body(error),
        code=error.code,
        message=error.message,
    )


def expired(batch: str, taken: Taken | None = None) -> Outcome:
    """Return the outcome of a line that there was no time for; of any pending one without `taken`."""
    return Outcome(
        batch=batch,
        number=taken.line.number if taken else 0,
        request_id=taken.request_id if taken else "",
        status_code=faces.face_of(BatchExpiredError.code).status,
        body=b"",
        code=BatchExpiredError.code,
    )
