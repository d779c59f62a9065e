"""The protocol between an engine worker and whatever generates tokens in it.

An engine knows OpenAI bodies and SSE frames; it knows no Redis, no Celery and no HTTP.
All its coroutines run on one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol


class EngineDeadError(Exception):
    """The engine cannot serve any more; the process that holds it must end."""


class RequestRefusedError(Exception):
    """The engine refuses this one request; it goes on serving others.

    `code` is one of the codes in `tasks.errors` ("invalid_request",
    "context_length_exceeded", "unsupported_endpoint" …). `message` is safe to show.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """How far another engine of the same model had come with a job when it was lost."""

    frames: int
    """How many frames of the answer the client has; at least one, but 0 where the job does not stream."""
    first: bytes
    """The first of them: an answer keeps its id and its time of creation."""
    trail: tuple[bytes, ...]
    """Every `Frames.trail` that went with them, in order. Of a job that does not stream, its latest `Progress` only."""


class Progress:
    """How far a run has come whose job does not stream, for whoever may have to go on with it.

    The engine fills it in; whoever gave it the job reads it, on the same loop. A run that has
    nothing to go on from (no token yet, structured output) leaves it empty.
    """

    __slots__ = ("_ask", "_kept")

    def __init__(self) -> None:
        self._ask: Callable[[], bytes | None] | None = None
        self._kept: bytes | None = None

    def follow(self, ask: Callable[[], bytes | None]) -> None:
        """Have `ask` say how far the run is: bytes without a line break, of a form that only the engine knows."""
        self._ask = ask

    def freeze(self) -> None:
        """Keep what there is now: the run is being broken off, and the engine is about to forget it."""
        if self._ask is not None:
            self._kept, self._ask = self._ask(), None

    def now(self) -> bytes | None:
        """Return how far the run is, or was when it was broken off; None: it cannot be continued from anywhere."""
        return self._kept if self._ask is None else self._ask()


def _nothing() -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request for an engine. `endpoint` is "chat", "completion" or "embedding".

    `body` is the client's JSON, byte for byte, except that it was checked to be one
    object. The engine answers under its own model id, whatever name the body has.
    """

    id: str
    endpoint: str
    body: bytes
    stream: bool
    resume: Resume | None = None
    """Go on from here instead of starting: the next frame is the one after those the client has."""
    on_token: Callable[[], None] = _nothing
    """Called on the loop when the engine gives the first token of this run, also where nothing streams."""
    progress: Progress = field(default_factory=Progress)
    """Where the engine says how far it is with a job that does not stream."""
    on_frames: Callable[[Frames], None] | None = None
    """Where an engine may hand frames over as they come, on the loop, within its step, instead of yielding them: a
    token then costs no task its turn. All of a job's frames go the same way, before its `Result`. Must not raise."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Whole SSE frames (`data: {...}\\n\\n`, one or several), to be forwarded as they are. Never `[DONE]`.

    `trail` is what an engine of the same model needs to go on after these frames: bytes
    without a line break, of a form that only the engine knows. None says that the answer
    cannot be continued elsewhere any more (structured output, a tool call); it stays so.
    """

    data: bytes
    trail: bytes | None = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The last thing an engine says of a request that went well.

    `body` is the whole JSON answer when the request does not stream, else empty.
    """

    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How full the engine is now. Read often, from any thread; it must cost nothing."""

    seats: int
    """Requests it may hold at once."""
    running: int
    """Requests it holds, those that wait inside it included."""
    waiting: int = 0
    """Of those, the ones it has no room to compute yet. Any at all closes the pull gate."""
    kv_usage: float = 0.0
    """Part of the KV cache in use, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepNeed:
    """What an engine keeps of its memory while it sleeps."""

    device_mib: int
    """Of each of its devices."""
    ram_mib: int
    """Of the machine's own memory, beyond what it takes while it is awake."""


class Engine(Protocol):
    """What a worker needs of an engine."""

    @property
    def endpoints(self) -> frozenset[str]:
        """What it can answer; known once `start` has returned."""
        ...

    @property
    def sleep_need(self) -> SleepNeed | None:
        """What it keeps while it sleeps; None: it cannot sleep. Known once `start` has returned."""
        ...

    @property
    def kv_mib(self) -> int | None:
        """What its KV cache takes of each device, once `start` has returned; None: not known, or it has none."""
        ...

    async def start(self) -> None:
        """Load the model. Raises whatever stops it, with a text an operator can act on."""
        ...

    def run(self, job: Job) -> AsyncIterator[Frames | Result]:
        """Generate. Any number of `Frames`, yielded or given to `job.on_frames`, then exactly one `Result`.

        Raises RequestRefusedError before the first frame when the request cannot be
        served, and EngineDeadError at any time. Cancelling the task that iterates, or
        closing the iterator, frees the request's seat at once.

        With `job.resume` no frame is repeated and usage counts the whole answer. Raises
        RequestRefusedError ("engine_failed") when it cannot go on from there; a job that does
        not stream begins anew instead, since nobody has seen anything of it. `job.progress` of
        such a job stays readable after the cancellation.
        """
        ...

    def load(self) -> EngineLoad: ...

    def room_beside(self, requests: int, slowdown: float) -> int | None:
        """Return how many it may hold together for none to take more than `slowdown` times as long as with
        `requests` alone; None where that makes no difference, or it is not known yet. From any thread.
        """
        ...

    async def check(self) -> None:
        """Return while the engine lives; raise EngineDeadError otherwise. Called every second or so."""
        ...

    async def sleep(self) -> None:
        """Give the device's memory back and keep the weights where they are fast to be had again.

        Only where `sleep_need` says that it can, and while it runs nothing: a job that comes
        meanwhile waits for `wake`. Raises EngineDeadError when it fails, since nobody knows
        then what it still holds.
        """
        ...

    async def wake(self) -> None:
        """Be as before `sleep`; returns at once in an engine that is awake. Raises EngineDeadError when it fails."""
        ...

    async def close(self) -> None:
        """Stop, and leave no process or shared memory behind. May be called after a failed `start`."""
        ...
