"""What Celery, and so Flower, is told of how a delivery of a request has ended.

| the request was …                           | state    |
|---------------------------------------------|----------|
| answered                                    | SUCCESS  |
| cancelled: its client has left              | REVOKED  |
| put back, for another worker to go on with  | RETRY    |
| somebody else's: this delivery was one more | as it is |
| failed, and the client was told so          | FAILURE  |

All of them acknowledge the message: whatever the state, nothing is left to be done here.
"""

from __future__ import annotations

from celery.exceptions import Ignore, Retry, Terminated

from tasks.requests.requeue import Fate
from tasks.serving.claim_store import Verdict

DONE, CANCELLED = "done", "cancelled"

_REVOKED = frozenset({CANCELLED, Verdict.GONE.value})
_NOT_OURS = frozenset({Verdict.HELD.value, Fate.ALIVE.value, Fate.NOT_HELD.value, Fate.ENDED.value})


class RequestFailedError(Exception):
    """The request has failed; the text is the code that its client was given, and nothing else."""


# Celery logs these as what they are, an outcome, without a traceback.
THROWN = (RequestFailedError, Terminated)


def announce(word: str) -> str:
    """Return `word`, with which a request has ended, or raise what gives its task the state of the table."""
    if word == DONE:
        return word
    if word in _REVOKED:
        raise Terminated(word)
    if word == Fate.QUEUED:
        raise Retry("put back", exc=RequestFailedError(word))
    if word in _NOT_OURS:
        raise Ignore
    raise RequestFailedError(word)
