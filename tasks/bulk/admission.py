"""From a line that is due to its call, or to the error it would get from the API at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from tasks.bulk.files import FileStore
from tasks.bulk.input import body_at
from tasks.bulk.records import BatchRecord, Kind, Outcome, Taken
from tasks.bulk.running import failure
from tasks.errors import (
    FileNotFoundHereError,
    RequestTooLargeError,
    ServingError,
    UnsupportedParameterError,
)
from tasks.messages import Call, Endpoint
from tasks.openai import schemas, strict_json
from tasks.openai.fields import RequestSchema
from tasks.queues import Priority
from tasks.requests.routing import Sight, route
from tasks.settings import Settings
from workers.registry import Registry

SCHEMAS: dict[Endpoint, RequestSchema] = {
    Endpoint.CHAT: schemas.CHAT,
    Endpoint.COMPLETION: schemas.COMPLETION,
    Endpoint.EMBEDDING: schemas.EMBEDDING,
}
# So long an end stands for a feeder that comes back.
KEEP_S = 3600
_PACK_LINES = 100
_PACK_BYTES = 4 << 20


def check(endpoint: Endpoint, body: dict[str, object]) -> None:
    """Raise the ServingError that the API would answer the body with."""
    SCHEMAS[endpoint].check(body)
    if body.get("stream"):
        raise UnsupportedParameterError(
            "'stream' is not supported: the answer is fetched when it is whole.", param="stream"
        )


def packs(lines: Sequence[Taken]) -> Iterator[list[Taken]]:
    """Divide lines into parts that are queued at once: bodies of several MiB each must not stand in memory together."""
    pack: list[Taken] = []
    size = 0
    for taken in lines:
        if pack and (len(pack) >= _PACK_LINES or size + taken.line.length > _PACK_BYTES):
            yield pack
            pack, size = [], 0
        pack.append(taken)
        size += taken.line.length
    if pack:
        yield pack


class Admission:
    """Used by one thread. Methods raise OSError where the disk does."""

    def __init__(self, settings: Settings, files: FileStore, sight: Sight) -> None:
        self._settings = settings
        self._files = files
        self._sight = sight
        self._open: dict[str, IO[bytes]] = {}

    def home(self, registry: Registry, name: str, endpoint: Endpoint | None) -> str | None:
        """Return the model that answers to a name now; None when there is none that could."""
        for asked in (endpoint,) if endpoint else Endpoint:
            with contextlib.suppress(ServingError):
                return route(registry, name, asked, self._sight).spec.id
        return None

    def call_of(self, registry: Registry, batch: BatchRecord, taken: Taken, now: float) -> Call | Outcome:
        """Return the call of a line; how the line ends where the API would refuse it. `now` is a Unix time."""
        try:
            body = self._body(batch, taken)
            if batch.kind is not Kind.CALL:
                check(taken.line.endpoint, strict_json.parse(body))
            model = route(registry, taken.line.model, taken.line.endpoint, self._sight).spec.id
        except ServingError as error:
            return failure(taken, error)
        return call(batch, taken, model, body, now=now, total_s=self._settings.total_timeout_s)

    def _body(self, batch: BatchRecord, taken: Taken) -> bytes:
        """Raises ServingError."""
        if taken.line.length > self._settings.max_body_bytes:
            raise RequestTooLargeError(f"The line is longer than {self._settings.max_body_bytes} bytes.")
        if taken.line.body:
            return taken.line.body
        if batch.id not in self._open:
            try:
                self._open[batch.id] = self._files.open(batch.input_file_id)
            except FileNotFoundError:
                raise FileNotFoundHereError("The batch's input file is gone.", param="input_file_id") from None
        try:
            return body_at(self._open[batch.id], taken.line)
        except ValueError:
            raise FileNotFoundHereError("The batch's input file is another one now.", param="input_file_id") from None

    def close_but(self, batches: Iterable[str]) -> None:
        """Close the input files of all batches but these."""
        for gone in self._open.keys() - set(batches):
            self._open.pop(gone).close()


def call(batch: BatchRecord, taken: Taken, model: str, body: bytes, *, now: float, total_s: float) -> Call:
    return Call(
        id=taken.request_id,
        model=model,
        endpoint=taken.line.endpoint,
        body=body,
        stream=False,
        gateway="",
        priority=Priority.BULK,
        queue_wait_s=max(1.0, batch.expires_at - now),
        total_s=total_s,
        caller=batch.owner,
        keep_s=KEEP_S,
    )
