"""What a comparison has found, as values that go to JSON and back."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Comparing = Callable[[float, float], float]


@dataclass(frozen=True, slots=True)
class Case:
    """A scenario within a block: the same one may stand in two."""

    block: str
    scenario: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One load on one contender. Everything in `values` is by name; CPU is of the contender's processes."""

    case: Case
    contender: str
    number: int
    values: dict[str, float]
    cpu_ms_per_answer: dict[str, float] = field(default_factory=dict)
    rss_mib: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several values, and the least and the greatest of them."""

    median: float
    low: float
    high: float


@dataclass(slots=True)
class Results:
    """A whole run. `failures` says by contender why it is not there, `idle` how much of a core it takes unasked."""

    about: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)

    def contenders(self, block: str) -> list[str]:
        return list(dict.fromkeys(it.contender for it in self.rounds if it.case.block == block))

    def of(self, case: Case, contender: str) -> list[Round]:
        return [it for it in self.rounds if (it.case, it.contender) == (case, contender)]

    def seen(self, case: Case, contender: str, metric: str) -> Spread | None:
        """Return what was measured over the rounds, None where nothing was."""
        return spread([it.values[metric] for it in self.of(case, contender) if metric in it.values])

    def compared(self, case: Case, ours: str, theirs: str, metric: str, *, how: Comparing) -> Spread | None:
        """Compare round by round, since what disturbs a machine disturbs neighbours in time alike."""
        other = {it.number: it.values for it in self.of(case, theirs)}
        pairs = [(it.values, other[it.number]) for it in self.of(case, ours) if it.number in other]
        # A window of a slow contender may have no answer, which is no measure of how slow it is.
        return spread([how(mine[metric], its[metric]) for mine, its in pairs if metric in mine and its.get(metric)])

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        said = json.loads(path.read_text())
        rounds = [Round(**it | {"case": Case(**it["case"])}) for it in said.pop("rounds")]
        return cls(rounds=rounds, **said)


def spread(values: list[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def ratio(ours: float, theirs: float) -> float:
    return ours / theirs


def difference(ours: float, theirs: float) -> float:
    return ours - theirs
