"""What a row of the fault matrix is, and what a run of it leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from tests.faults.expected import Book
from tests.faults.load import Load, Outcomes
from tests.faults.outcome import Kind, Outcome
from tests.faults.system import Setup, System
from tests.faults.watcher import Watcher


class Mark(StrEnum):
    """How an invariant fared."""

    HELD = "held"
    BROKEN = "broken"
    NOT_APPLICABLE = "n/a"


@dataclass(slots=True)
class Check:
    """One thing a row must show."""

    what: str
    passed: bool
    seen: str
    timed: bool = False
    """Whether it is about how long something took."""


@dataclass(slots=True, kw_only=True)
class Run:
    """One row as it runs: what it may use, and where it writes down what it saw."""

    system: System
    model: str
    book: Book
    watcher: Watcher
    long: bool = False
    timed: bool = True
    """Whether it counts how long things take. Not where other tests run on the same cores."""
    outcomes: Outcomes = field(default_factory=Outcomes)
    others: Outcomes = field(default_factory=Outcomes)
    """Requests for the other model, which the fault must not touch."""
    checks: list[Check] = field(default_factory=list)
    ledger_held: bool | None = None
    """Whether each line that was handed in has exactly one result (I4); None where there is no batch."""
    ledger_told: str = ""
    fault_at: float | None = None
    healed_at: float | None = None

    def load(self, clients: int = 8, **options: Any) -> Load:
        """Start clients that ask for the model under fault."""
        return Load(self.system, self.book, self.outcomes, clients=clients, **options).start()

    def fault(self) -> None:
        """The first fault happens now."""
        if self.fault_at is None:
            self.fault_at = time.monotonic()

    def healed(self) -> None:
        """From now on the system has again what it needs."""
        self.healed_at = time.monotonic()

    def check(self, what: str, passed: object, seen: object = "", *, timed: bool = False) -> None:
        self.checks.append(Check(what, bool(passed), str(seen), timed))

    def failures(self) -> list[str]:
        """Return the checks that count and did not pass, in words."""
        counting = (check for check in self.checks if self.timed or not check.timed)
        return [f"{check.what}: {check.seen}" for check in counting if not check.passed]

    def count(self, *kinds: Kind) -> int:
        return sum(1 for outcome in self.outcomes if outcome.kind in kinds)

    def unlike(self, *kinds: Kind) -> list[Outcome]:
        """Return the outcomes that are of none of these kinds."""
        return [outcome for outcome in self.outcomes if outcome.kind not in kinds]

    def all_clean(self) -> None:
        """Check that nobody has noticed anything."""
        rest = self.unlike(Kind.CLEAN)
        self.check("0 failed, every text as undisturbed", not rest, first_words(rest))

    def nothing_dirty(self) -> None:
        """Check that whatever failed said so."""
        rest = self.unlike(Kind.CLEAN, Kind.FAILED, Kind.CANCELLED)
        self.check("nothing ended dirty", not rest, first_words(rest))

    def gaps_within(self, limit_s: float) -> None:
        longest = max((outcome.gap_s for outcome in self.outcomes), default=0.0)
        self.check(f"longest gap in a stream ≤ {limit_s:g} s", longest <= limit_s, f"{longest:.2f} s", timed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the matrix."""

    id: str
    fault: str
    client_sees: str
    lost: str
    """What can be lost; for the promises table."""
    setup: Setup
    act: Callable[[Run], None]
    engine: str = "sim"
    blast: bool = True
    """Whether requests for another model must not notice (I6)."""
    cuts_allowed: bool = False
    """Whether a connection may break: only where a gateway dies."""
    reuse: bool = False
    """Whether the row may run in a system that an earlier row has left in order."""


@dataclass(slots=True, kw_only=True)
class Result:
    """A row that has run; plain values, so that it can be kept as JSON."""

    row: str
    fault: str
    engine: str
    client_sees: str
    lost: str
    requests: int
    clean: int
    retried: int
    migrated: int
    failed: int
    cut: int
    cancelled: int
    dirty: int
    recovery_s: float | None
    longest_gap_s: float
    took_s: float
    invariants: dict[str, str]
    checks: list[Check]
    problems: list[str]

    @property
    def passed(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def first_words(outcomes: list[Outcome], most: int = 3) -> str:
    """Return how many there are, and what the first few were."""
    told = "; ".join(f"{o.kind} {o.status} {o.why} ({o.request_id})" for o in outcomes[:most])
    return f"{len(outcomes)}: {told}" if outcomes else "0"
