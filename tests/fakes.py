"""Stand-ins for our own protocols, checked against them by mypy."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from tasks.errors import IdempotencyKeyReusedError, RequestCancelledError, RequestNotFoundError, ServingError
from tasks.messages import Call, Delta, Done, Event, Failed, Started
from tasks.requests import cold_start
from tasks.requests.cold_start import NO_TERMS, Deferred, Patience, Standing, Terms
from tasks.requests.dispatch import Answer, Dispatcher, Once, RequestFacts, RequestStatus
from tasks.requests.inbox import Forward
from workers.placement.actions import Explanation
from workers.registry import Registry


class FakeClock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeRegistries:
    """The registry as a test has it."""

    registry: Registry

    def current(self) -> Registry:
        return self.registry


@dataclass(frozen=True, slots=True)
class Silence:
    """For so long nothing comes. A `FakeClock` is moved on; nobody waits."""

    seconds: float


Script = Iterable[Event | Silence | ServingError]


class FakeAnswer:
    """Plays a script. At its end it is silent: for ever, or until `abandon`.

    A `Delta` without an id gets the one it would have in Redis. Deltas behind a silence go to whoever wants them
    forwarded, if nothing else comes in the same breath.
    """

    def __init__(self, script: Script, clock: FakeClock | None = None, *, kept: bool = False) -> None:
        self.script = deque(script)
        self._clock = clock
        self._left = threading.Event()
        self._at = (1, 0)
        self.request_id = ""
        self.kept = kept
        self.standings: deque[Standing | None] = deque()
        """What it says of itself while it waits, one after the other; then nothing."""
        self.abandoned = False
        self.closed = False
        self.ended = False

    @property
    def cancelled(self) -> bool:
        """Closed before its end was seen, and not kept for later."""
        return self.closed and not self.ended and not self.kept

    def next(self, timeout_s: float, forward: Forward | None = None) -> Event | None:
        if self.abandoned:
            raise RequestCancelledError("abandoned")
        if not self.script:
            return self._wait(timeout_s)
        head = self.script[0]
        if isinstance(head, Silence):
            return self._be_silent(head, timeout_s, forward)
        self.script.popleft()
        if isinstance(head, ServingError):
            raise head
        self.ended = not isinstance(head, Started | Delta)
        return self._numbered(head)

    def _numbered(self, event: Event) -> Event:
        attempt, seq = self._at
        self._at = (event.attempt, 0) if isinstance(event, Started) else (attempt, seq + 1)
        if isinstance(event, Delta) and not event.id:
            return replace(event, id=f"{attempt}-{seq + 1}")
        return event

    def _be_silent(self, silence: Silence, timeout_s: float, forward: Forward | None) -> Event | None:
        assert self._clock is not None, "silence needs a clock"
        self.script.popleft()
        if silence.seconds <= timeout_s:
            self._clock.now += silence.seconds
            breath = list(itertools.takewhile(lambda it: not isinstance(it, Silence), self.script))
            deltas = [it for it in breath if isinstance(it, Delta)]
            if forward is not None and breath and deltas == breath:
                for _ in breath:
                    self.script.popleft()
                if not forward(b"".join(it.frames for it in deltas)):
                    return Delta(b"")
            return self.next(timeout_s - silence.seconds, forward)
        self._clock.now += timeout_s
        self.script.appendleft(Silence(silence.seconds - timeout_s))
        return None

    def _wait(self, timeout_s: float) -> Event | None:
        if self._clock is not None:
            self._clock.now += timeout_s
            return None
        if self._left.wait(timeout_s):
            raise RequestCancelledError("abandoned")
        return None

    def standing(self) -> Standing | None:
        return self.standings.popleft() if self.standings else None

    def abandon(self) -> None:
        self.abandoned = True
        self._left.set()

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeDispatcher:
    """Answers every call from `script`, or as `play` says; `refusal` is raised instead.

    A kept call is played from its beginning again to everyone who follows it, and its
    status is what its script comes to.
    """

    script: list[Event | Silence | ServingError] = field(default_factory=lambda: [Started("r1", 1), Done(body=b"{}")])
    play: Callable[[Call], FakeAnswer] | None = None
    refusal: ServingError | None = None
    well: bool = True
    cold: set[str] = field(default_factory=set)
    """The models without a ready replica; every other one has one."""
    outlooks: dict[str, Explanation] = field(default_factory=dict)
    clock: FakeClock | None = None
    calls: list[Call] = field(default_factory=list)
    terms: list[Terms] = field(default_factory=list)
    """One a call."""
    asked: list[str] = field(default_factory=list)
    """Models that are to be loaded for clients which come back."""
    answers: list[FakeAnswer] = field(default_factory=list)
    """One a call."""
    readers: list[FakeAnswer] = field(default_factory=list)
    """One for each time that a kept call was followed."""
    kept: dict[str, Call] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    _used_keys: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def ready(self, model: str) -> bool:
        return model not in self.cold

    def outlook(self, model: str) -> Explanation | None:
        return self.outlooks.get(model)

    def submit(self, call: Call, *, max_depth: int, once: Once | None = None, terms: Terms = NO_TERMS) -> Answer:
        if self.refusal is not None:
            raise self.refusal
        used = self._used_keys.get((call.caller, once.key)) if once else None
        if once and used:
            if used[0] != once.digest:
                raise IdempotencyKeyReusedError("another request")
            return self.follow(used[1], call.caller)
        if call.model in self.cold:
            self._knock(call.model, terms)
        if once:
            self._used_keys[call.caller, once.key] = once.digest, call.id
        answer = self._answer(call)
        # Together, since others look between: to begin an answer may start a thread, which lets them run.
        self.calls.append(call)
        self.terms.append(terms)
        self.answers.append(answer)
        if call.keep_s:
            self.kept[call.id] = call
        return answer

    def _knock(self, model: str, terms: Terms) -> None:
        explanation = self.outlooks.get(model)
        if (error := cold_start.refusal(explanation, terms)) is not None:
            raise error
        if terms.patience is Patience.DEFER:
            self.asked.append(model)
            raise Deferred(cold_start.standing(explanation))

    def find(self, request_id: str, caller: str) -> RequestFacts:
        call = self._kept(request_id, caller)
        status = RequestStatus.CANCELLED if request_id in self.cancelled else self._status(call)
        running = status in (RequestStatus.QUEUED, RequestStatus.IN_PROGRESS)
        return RequestFacts(
            id=call.id,
            model=call.model,
            endpoint=call.endpoint,
            stream=call.stream,
            caller=call.caller,
            status=status,
            created_at=1_800_000_000.25,
            ended_at=None if running else 1_800_000_002.75,
            tries=0 if status is RequestStatus.QUEUED else 1,
            position=1 if status is RequestStatus.QUEUED else None,
        )

    def follow(self, request_id: str, caller: str) -> Answer:
        answer = self._answer(self._kept(request_id, caller))
        self.readers.append(answer)
        return answer

    def cancel(self, request_id: str, caller: str) -> RequestFacts:
        if self.find(request_id, caller).ended_at is None:
            self.cancelled.add(request_id)
        return self.find(request_id, caller)

    def healthy(self) -> bool:
        return self.well

    def close(self) -> None:
        return None

    def _answer(self, call: Call) -> FakeAnswer:
        answer = self.play(call) if self.play else FakeAnswer(self.script, self.clock)
        answer.request_id, answer.kept = call.id, call.keep_s > 0
        return answer

    def _kept(self, request_id: str, caller: str) -> Call:
        if self.refusal is not None:
            raise self.refusal
        call = self.kept.get(request_id)
        if call is None or call.caller != caller:
            raise RequestNotFoundError("unknown")
        return call

    def _status(self, call: Call) -> RequestStatus:
        status = RequestStatus.QUEUED
        for event in self._answer(call).script:
            match event:
                case Started() | Delta():
                    status = RequestStatus.IN_PROGRESS
                case Done():
                    return RequestStatus.COMPLETED
                case Failed(code):
                    cancelled = code == RequestCancelledError.code
                    return RequestStatus.CANCELLED if cancelled else RequestStatus.FAILED
                case _:
                    pass
        return status


_: Dispatcher = FakeDispatcher()
