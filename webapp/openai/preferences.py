"""How a client wants its answer delivered, from the headers of its request.

| header                         | the answer                                                  | stands after its end |
|--------------------------------|-------------------------------------------------------------|----------------------|
| `X-Celerity-Resumable: true`   | a stream that can be gone on with on another connection     | 10 minutes           |
| `Prefer: respond-async`        | is fetched later (RFC 7240)                                 | 24 hours             |
| `Idempotency-Key: KEY`         | is made once, however often it is asked for by the same key | 24 hours             |

They can be combined. Without any of them nobody comes back, and a client that leaves
cancels its request.

| header                         | while the model has to be loaded first                                     |
|--------------------------------|----------------------------------------------------------------------------|
| `X-SSW-Wait: true`             | the client waits, also while no room can be made                           |
| `X-SSW-Wait: false`            | it gets 202 and comes again; nothing is queued                             |
| `X-Celerity-Progress: true`    | comments of its stream say how it stands, as long as no worker has it      |
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from werkzeug.datastructures import Headers

from tasks.errors import InvalidRequestError
from tasks.messages import Endpoint
from tasks.requests.dispatch import Once

RESUMABLE_KEEP_S = 600
LASTING_KEEP_S = 24 * 3600

_KEY = re.compile(r"[!-~]{1,255}")
# Never gives a character back, so that no header makes it slow; a string without an end goes on to the last one.
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*+\\?"?')


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What one request asks for."""

    resumable: bool = False
    respond_async: bool = False
    key: str | None = None
    wait: bool | None = None
    """Whether it waits for a model that has to be loaded first; None: as this installation is set."""
    progress: bool = False

    @property
    def keep_s(self) -> int:
        """How long the answer has to stand after its end; 0 when nobody comes back for it."""
        if self.respond_async or self.key is not None:
            return LASTING_KEEP_S
        return RESUMABLE_KEEP_S if self.resumable else 0

    def once(self, endpoint: Endpoint, body: bytes) -> Once | None:
        """Return what a repetition is known by: its key, and that it asks for the same, byte for byte."""
        if self.key is None:
            return None
        digest = hashlib.sha256(endpoint.value.encode() + b"\0" + body).hexdigest()
        return Once(key=self.key, digest=digest, ttl_s=LASTING_KEEP_S)


def delivery_of(headers: Headers, *, stream: bool) -> Delivery:
    """Read the headers. Only a stream can be resumable.

    Raises InvalidRequestError when one of ours has a value that means nothing.
    """
    return Delivery(
        resumable=_switch(headers, "X-Celerity-Resumable") and stream,
        respond_async=_prefers_async(headers.get("Prefer", "")),
        key=_key(headers.get("Idempotency-Key")),
        wait=_wait(headers.get("X-SSW-Wait")),
        progress=wants_progress(headers),
    )


def wants_progress(headers: Headers) -> bool:
    """Raises InvalidRequestError for a value that means nothing."""
    return _switch(headers, "X-Celerity-Progress")


def _switch(headers: Headers, name: str) -> bool:
    match headers.get(name, "").strip().lower():
        case "true" | "1":
            return True
        case "false" | "0" | "":
            return False
        case _:
            raise InvalidRequestError(f"The header {name} must be 'true' or 'false'.")


def _wait(value: str | None) -> bool | None:
    match value if value is None else value.strip().lower():
        case None:
            return None
        case "true":
            return True
        case "false":
            return False
        case _:
            raise InvalidRequestError("The header X-SSW-Wait must be 'true' or 'false'.")


def _prefers_async(value: str) -> bool:
    preferences = _QUOTED.sub("", value).split(",")
    return any(
        preference.partition(";")[0].rstrip("= \t").strip().lower() == "respond-async" for preference in preferences
    )


def _key(value: str | None) -> str | None:
    if value is not None and not _KEY.fullmatch(value):
        raise InvalidRequestError("The header Idempotency-Key must have 1 to 255 visible ASCII characters.")
    return value
