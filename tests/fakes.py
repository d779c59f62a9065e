"""Stand-ins for our own protocols, checked against them by mypy."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tasks.dispatch import Answer, Dispatcher
from tasks.errors import RequestCancelledError, ServingError
from tasks.messages import Call, Delta, Done, Event, Started


class FakeClock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Silence:
    """For so long nothing comes. A `FakeClock` is moved on; nobody waits."""

    seconds: float


class FakeAnswer:
    """Plays a script. At its end it is silent: for ever, or until `abandon`."""

    def __init__(self, script: Iterable[Event | Silence | ServingError], clock: FakeClock | None = None) -> None:
        self._script = deque(script)
        self._clock = clock
        self._left = threading.Event()
        self.abandoned = False
        self.closed = False
        self.ended = False

    @property
    def cancelled(self) -> bool:
        """Closed before its end was seen."""
        return self.closed and not self.ended

    def next(self, timeout_s: float) -> Event | None:
        if self.abandoned:
            raise RequestCancelledError("abandoned")
        if not self._script:
            return self._wait(timeout_s)
        head = self._script[0]
        if isinstance(head, Silence):
            return self._be_silent(head, timeout_s)
        self._script.popleft()
        if isinstance(head, ServingError):
            raise head
        self.ended = not isinstance(head, Started | Delta)
        return head

    def _be_silent(self, silence: Silence, timeout_s: float) -> Event | None:
        assert self._clock is not None, "silence needs a clock"
        self._script.popleft()
        if silence.seconds <= timeout_s:
            self._clock.now += silence.seconds
            return self.next(timeout_s - silence.seconds)
        self._clock.now += timeout_s
        self._script.appendleft(Silence(silence.seconds - timeout_s))
        return None

    def _wait(self, timeout_s: float) -> Event | None:
        if self._clock is not None:
            self._clock.now += timeout_s
            return None
        if self._left.wait(timeout_s):
            raise RequestCancelledError("abandoned")
        return None

    def abandon(self) -> None:
        self.abandoned = True
        self._left.set()

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeDispatcher:
    """Answers every call from `script`, or as `play` says; `refusal` is raised instead."""

    script: list[Event | Silence | ServingError] = field(default_factory=lambda: [Started("r1", 1), Done(body=b"{}")])
    play: Callable[[Call], FakeAnswer] | None = None
    refusal: ServingError | None = None
    well: bool = True
    clock: FakeClock | None = None
    calls: list[Call] = field(default_factory=list)
    answers: list[FakeAnswer] = field(default_factory=list)

    def submit(self, call: Call, *, max_depth: int) -> Answer:
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(call)
        answer = self.play(call) if self.play else FakeAnswer(self.script, self.clock)
        self.answers.append(answer)
        return answer

    def healthy(self) -> bool:
        return self.well

    def close(self) -> None:
        return None


_: Dispatcher = FakeDispatcher()
