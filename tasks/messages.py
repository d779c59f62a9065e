"""What a gateway and a worker tell each other, and how it is written down in Redis.

A request is one `Call`, kept in a hash. Its answer is a stream of `Started`, any
number of `Delta`, then exactly one `Done` or `Failed`. A worker that takes the
request over writes another `Started`, with a higher attempt, and goes on from there.

Gateways and workers of different releases talk to each other during every deploy,
so the strings on the wire outlive the class names, and a field that is unknown here
is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from tasks.queues import Priority

Fields = dict[bytes, bytes]


class Endpoint(StrEnum):
    """Which of the engine's handlers answers. The names are on the wire."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as a gateway accepted it.

    `body` is the client's JSON, byte for byte: whoever parses it must read `model`
    from here, since the body may name an alias. `gateway` is empty when the answer is
    made whether or not anybody waits for it; a worker drops any other call whose
    gateway has died. `caller` is the name of the API key it came with. `keep_s` is how
    long the answer stands after its end for whoever comes back for it; 0: nobody will.
    """

    id: str
    model: str
    endpoint: Endpoint
    body: bytes
    stream: bool
    gateway: str
    priority: Priority = Priority.INTERACTIVE
    queue_wait_s: float = 180.0
    total_s: float = 600.0
    caller: str = ""
    keep_s: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has claimed the request.

    `attempt` is larger than that of every earlier worker. `after` is the id of the last
    `Delta` that this worker goes on from; empty when it begins at the beginning.
    """

    replica: str
    attempt: int
    after: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """One or more whole SSE frames (`data: {...}\\n\\n`), ready to be written to the client.

    `trail` is for the worker that may have to go on from here: the engine's
    `Frames.trail` of each piece, one a line; None when nobody can. `id` is the record's
    place in its stream (`<attempt>-<seq>`), known to whoever has read it.
    """

    frames: bytes
    trail: bytes | None = b""
    id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The answer is complete. `body` is the whole JSON answer of a request that does not stream."""

    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended without a (whole) answer. `code` is one of `tasks.errors`.

    `final`: the same request would fail again, so its client should not repeat it.
    `retry_after_s`: when it is worth repeating, where that is known.
    """

    code: str
    message: str
    param: str | None = None
    final: bool = False
    retry_after_s: float | None = None


Event = Started | Delta | Done | Failed


_TOKEN = [b"k", b"delta", b"f"]
_TRAIL = [b"t"]


def parse_id(record_id: str) -> tuple[int, int]:
    """Return the attempt and the place in it that a record's id (`<attempt>-<seq>`) names."""
    attempt, _, seq = record_id.partition("-")
    return int(attempt), int(seq or 0)


def encode_call(call: Call) -> Fields:
    return {
        b"id": call.id.encode(),
        b"model": call.model.encode(),
        b"endpoint": call.endpoint.value.encode(),
        b"body": call.body,
        b"stream": b"1" if call.stream else b"0",
        b"gateway": call.gateway.encode(),
        b"priority": str(call.priority.value).encode(),
        b"queue_wait_s": repr(call.queue_wait_s).encode(),
        b"total_s": repr(call.total_s).encode(),
        b"caller": call.caller.encode(),
        b"keep_s": str(call.keep_s).encode(),
    }


def decode_call(fields: Mapping[bytes, bytes]) -> Call:
    """Raise KeyError or ValueError when `fields` is not a call."""
    return Call(
        id=fields[b"id"].decode(),
        model=fields[b"model"].decode(),
        endpoint=Endpoint(fields[b"endpoint"].decode()),
        body=fields[b"body"],
        stream=fields[b"stream"] == b"1",
        gateway=fields[b"gateway"].decode(),
        priority=Priority(int(fields[b"priority"])),
        queue_wait_s=float(fields[b"queue_wait_s"]),
        total_s=float(fields[b"total_s"]),
        caller=fields.get(b"caller", b"").decode(),
        keep_s=int(fields.get(b"keep_s", b"0")),
    )


def encode_event(event: Event) -> Fields:
    match event:
        case Started(replica, attempt, after):
            return {
                b"k": b"started",
                b"replica": replica.encode(),
                b"attempt": str(attempt).encode(),
                b"after": after.encode(),
            }
        case Delta(frames, trail):
            return {b"k": b"delta", b"f": frames} | ({b"u": b"1"} if trail is None else {b"t": trail})
        case Done():
            return {
                b"k": b"done",
                b"finish": event.finish_reason.encode(),
                b"prompt": str(event.prompt_tokens).encode(),
                b"completion": str(event.completion_tokens).encode(),
                b"body": event.body,
            }
        case Failed(code, message, param, final, retry_after_s):
            fields = {b"k": b"failed", b"code": code.encode(), b"message": message.encode()}
            fields |= {b"final": b"1"} if final else {}
            fields |= {} if retry_after_s is None else {b"retry_after_s": repr(retry_after_s).encode()}
            return fields if param is None else fields | {b"param": param.encode()}
        case _:
            assert_never(event)


def decode_record(flat: list[bytes], record_id: bytes) -> Event | None:
    """As `decode_event`, of a record's names and values in turn."""
    if flat[:3] == _TOKEN and flat[4:5] == _TRAIL:  # most records are such, and need no dictionary
        return Delta(flat[3], flat[5], record_id.decode())
    return decode_event(dict(zip(flat[::2], flat[1::2], strict=True)), record_id)


def decode_event(fields: Mapping[bytes, bytes], record_id: bytes = b"") -> Event | None:
    """Return the event, or None for a kind that only a newer release knows."""
    match fields[b"k"]:
        case b"delta":
            trail = None if b"u" in fields else fields.get(b"t", b"")
            return Delta(fields[b"f"], trail, record_id.decode())
        case b"started":
            after = fields.get(b"after", b"").decode()
            return Started(fields[b"replica"].decode(), int(fields[b"attempt"]), after)
        case b"done":
            return Done(
                finish_reason=fields[b"finish"].decode(),
                prompt_tokens=int(fields[b"prompt"]),
                completion_tokens=int(fields[b"completion"]),
                body=fields[b"body"],
            )
        case b"failed":
            param, retry_after_s = fields.get(b"param"), fields.get(b"retry_after_s")
            return Failed(
                fields[b"code"].decode(),
                fields[b"message"].decode(),
                param.decode() if param else None,
                b"final" in fields,
                float(retry_after_s) if retry_after_s else None,
            )
        case _:
            return None
