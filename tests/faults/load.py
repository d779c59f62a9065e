"""Clients that ask all the time, and what they saw."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.faults.client import Ask, UnreachedError, ask, ask_resumable
from tests.faults.expected import Book
from tests.faults.outcome import Kind, Outcome
from tests.faults.system import System

# Whoever finds no gateway at a port goes to the next; after so long there is none.
_REACH_S = 30.0
_REFUSED_PAUSE_S = 0.5


class Outcomes:
    """Everything that was asked in a row; clients add to it from their threads."""

    def __init__(self) -> None:
        self._all: list[Outcome] = []
        self._lock = threading.Lock()

    def add(self, outcome: Outcome) -> Outcome:
        with self._lock:
            self._all.append(outcome)
        return outcome

    def __iter__(self) -> Iterator[Outcome]:
        with self._lock:
            return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)


class Load:
    """`clients` threads, each with one request at a time."""

    def __init__(
        self,
        system: System,
        book: Book,
        outcomes: Outcomes,
        *,
        clients: int,
        streamed: float = 0.75,
        resumable: float = 0.0,
        requests: int | None = None,
        pause_s: float = 0.0,
        headers: dict[str, str] | None = None,
    ) -> None:
        """`streamed` and `resumable` are shares; `requests` is how many each client sends (None: until `stop`)."""
        self._system, self._book, self._outcomes = system, book, outcomes
        self._streamed, self._resumable, self._requests = streamed, resumable, requests
        self._pause_s, self._headers = pause_s, headers or {}
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(i,), daemon=True) for i in range(clients)]

    def start(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Let every client finish its request."""
        self._stopping.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _client(self, index: int) -> None:
        # Not all in step: a fault has to find requests of every kind.
        self._stopping.wait(0.1 * (index % 8))
        for number in itertools.count():
            if self._stopping.is_set() or number == self._requests:
                return
            outcome = self._outcomes.add(self._one(index + number))
            # Whoever is refused does not ask again at once.
            self._stopping.wait(_REFUSED_PAUSE_S if outcome.kind is Kind.FAILED else self._pause_s)

    def _one(self, number: int) -> Outcome:
        stream = _nth(number, self._streamed)
        what = replace(self._book.next(stream=stream), headers=self._headers)
        if stream and _nth(number, self._resumable):
            return ask_resumable(self._system.port, replace(what, resumable=True))
        return reach(self._system.port, what)


def reach(ports: Callable[[], int], what: Ask) -> Outcome:
    """Ask at the first gateway that listens."""
    began = time.monotonic()
    while True:
        try:
            return ask(ports(), what)
        except UnreachedError as error:
            now = time.monotonic()
            if now - began > _REACH_S:
                lost = Outcome(model=what.model, stream=what.stream, began=began, ended=now)
                lost.kind, lost.why = Kind.FAILED, str(error)
                return lost
            time.sleep(0.1)


def together(work: Callable[[int], Outcome], count: int, outcomes: Outcomes) -> list[threading.Thread]:
    """Start `count` requests at once, each on a thread of its own."""
    threads = [threading.Thread(target=lambda n=n: outcomes.add(work(n)), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads


def _nth(number: int, share: float) -> bool:
    """Say whether the request with this number is one of the `share`, evenly spread."""
    return math.floor((number + 1) * share) > math.floor(number * share)
