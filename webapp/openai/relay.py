"""From the events of a call to the bytes of an answer.

A stream's status line is held back until there is something to say, so that an early
failure keeps its real status. From then on errors travel as an event, and a stream
without a final `[DONE]` has always had one: to end silently would look like success.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from typing import Protocol, assert_never

from tasks.errors import RequestCancelledError, ServiceUnavailableError, ServingError, error_of
from tasks.messages import Delta, Done, Event, Failed, Started
from tasks.openai import faces
from tasks.requests.cold_start import Standing
from tasks.requests.dispatch import Answer
from tasks.requests.inbox import Forward
from webapp import sse
from webapp.drain import Drain
from webapp.openai.deadlines import Deadlines
from webapp.openai.keep_alive import KeepAlive
from webapp.openai.tally import Account


class Outlet(Protocol):
    """Where a client's pieces go, as `webapp.connection.ClientConnection` has it."""

    def hold(self) -> None: ...

    def forward(self, piece: bytes) -> bool: ...

    def flush(self) -> None: ...


class Followed:
    """An answer under its deadlines, which ends when its client leaves or the process does."""

    def __init__(
        self,
        answer: Answer,
        *,
        deadlines: Deadlines,
        account: Account,
        drain: Drain,
        clock: Callable[[], float],
        unwatch: Callable[[], None],
        outlet: Outlet | None = None,
        farewell: str = "The server is shutting down; repeat the request.",
    ) -> None:
        """`unwatch` ends the watch over the client's connection; `outlet` is that connection, where there is one of
        ours; `farewell` is what it reads when the process ends.
        """
        self.clock = clock
        self.ended = False
        self._answer = answer
        self._deadlines = deadlines
        self._account = account
        self._drain = drain
        self._unwatch = unwatch
        self._outlet = outlet
        self._forwarded_at = -math.inf
        self._farewell = farewell
        self._error: ServingError | None = None
        drain.add(answer.abandon)

    def next(self, patience_s: float = math.inf, *, forward: bool = False) -> Event | None:
        """Return the next event, or None after `patience_s` without one.

        With `forward`, frames that come meanwhile go to the client at once, if all before them have. Raises
        DeadlineExceededError, and ServiceUnavailableError when the process ends.
        """
        if self._error is not None:
            raise self._error
        to = self._forward if forward and self._outlet is not None else None
        began = self.clock()
        while True:
            now = self.clock()
            left = self._deadlines.left(now)
            if left <= 0:
                raise self._deadlines.error()
            patience_left = patience_s - (now - max(began, self._forwarded_at))
            if patience_left <= 0:
                return None
            event = self._read(min(left, patience_left), to)
            if event is not None:
                return event

    def at_hand(self) -> Event | None:
        """Return the next event if it has arrived already. An error waits for `next`: what came first is told first."""
        try:
            return self._read(0.0, None)
        except ServingError as error:
            self._error = error
            return None

    def standing(self) -> Standing | None:
        """Return how the call stands while it waits for a worker."""
        return self._answer.standing()

    def close(self, code: str) -> None:
        """Let go of the call, which cancels it unless it has ended or is kept. `code` says how it went."""
        self._unwatch()
        self._drain.discard(self._answer.abandon)
        try:
            self._answer.close()
        finally:
            self._account.end(code, self.clock())

    def hold(self) -> None:
        """Keep the client's next piece back until what follows at once."""
        if self._outlet is not None:
            self._outlet.hold()

    def flush(self) -> None:
        """Wait until the client has taken what was forwarded. Raises OSError when it does not."""
        if self._outlet is not None:
            self._outlet.flush()

    def _forward(self, frames: bytes) -> bool:
        assert self._outlet is not None
        self._forwarded_at = now = self.clock()
        self._deadlines.heard(now)
        return self._outlet.forward(frames)

    def _read(self, wait_s: float, forward: Forward | None) -> Event | None:
        try:
            event = self._answer.next(wait_s, forward)
        except RequestCancelledError:
            if self._drain.expired:
                raise ServiceUnavailableError(self._farewell) from None
            raise
        if event is not None:
            self.ended = isinstance(event, Done | Failed)
            now = self.clock()
            self._deadlines.saw(event, now)
            self._account.saw(event, now)
        return event


def collect(followed: Followed) -> Done:
    """Wait for an answer in one piece. Raises the ServingError it ended with."""
    code = RequestCancelledError.code
    try:
        while True:
            match followed.next():
                case Done() as done:
                    code = "ok"
                    return done
                case Failed() as failed:
                    raise _error_in(failed)
                case _:
                    pass
    except ServingError as error:
        code = error.code
        raise
    finally:
        followed.close(code)


def stream(
    followed: Followed,
    *,
    commit_after_s: float,
    ping_s: float,
    dialect: sse.Dialect = sse.PLAIN,
    progress: bool = False,
) -> Generator[bytes, None, None]:
    """Yield the pieces of a stream, each to be written at once. With `progress` it says how the call waits.

    Raises ServingError before the first piece only; getting that piece decides the
    status. Closing the generator, as gunicorn does when a write fails, lets go of the call.
    """
    code = RequestCancelledError.code
    keep_alive = KeepAlive(dialect, ping_s, followed.standing if progress else None)
    try:
        held = _hold(followed, commit_after_s)
        try:
            yield from _pieces(followed, held, keep_alive, dialect)
            code = "ok"
        except ServingError as error:
            code = error.code
            yield (dialect.end_id if followed.ended else b"") + sse.frame(faces.body(error))
    except ServingError as error:
        code = error.code
        raise
    finally:
        followed.close(code)


class Begun:
    """A stream whose first piece is there already: an iterator for a WSGI server."""

    def __init__(self, pieces: Generator[bytes, None, None]) -> None:
        """Wait for the first piece; raises what the generator raises before it."""
        self._first: bytes | None = next(pieces)
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        return next(self._pieces) if first is None else first

    def close(self) -> None:
        self._pieces.close()


def _hold(followed: Followed, commit_after_s: float) -> Delta | Done | None:
    """Wait until the status is certain; None when it must go out without."""
    until = followed.clock() + commit_after_s
    while (left := until - followed.clock()) > 0:
        match followed.next(left):
            case Delta() | Done() as event:
                return event
            case Failed() as failed:
                raise _error_in(failed)
            case Started() | None:
                pass
    return None


def _pieces(followed: Followed, event: Event | None, keep_alive: KeepAlive, dialect: sse.Dialect) -> Iterator[bytes]:
    done = dialect.end_id + sse.DONE
    while True:
        match event:
            case Delta(frames):
                # What has piled up meanwhile goes into the same write.
                while isinstance(event := followed.at_hand(), Delta):
                    frames += event.frames
                if isinstance(event, Done):
                    followed.hold()
                    yield frames + done
                    return
                if frames:
                    yield frames
                else:
                    followed.flush()
                if event is not None:
                    continue
            case Done():
                followed.hold()
                yield done
                return
            case Failed():
                raise _error_in(event)
            case Started():
                pass  # another worker goes on; the dispatcher has seen to it that it goes on from here
            case None:
                yield keep_alive.comment()
            case _:
                assert_never(event)
        event = followed.next(keep_alive.every_s, forward=True)


def _error_in(failed: Failed) -> ServingError:
    return error_of(failed.code, failed.message, failed.param, final=failed.final, retry_after_s=failed.retry_after_s)
