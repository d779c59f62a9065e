"""The open batches as the feeder knows them between two looks at the ledger. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tasks.bulk.records import BatchRecord, BatchStatus
from tasks.bulk.window import shares

Home = Callable[[BatchRecord, str], str | None]


class Ending(StrEnum):
    """Why lines of a batch that have no result yet get none."""

    EXPIRED = "expired"  # each fails, and says why
    CANCELLED = "cancelled"  # they are dropped, as OpenAI drops them


@dataclass(eq=False, slots=True)
class OpenBatch:
    record: BatchRecord
    pending: dict[str, int] = field(default_factory=dict)
    """How many lines wait, by model as the lines have it."""
    stale: bool = True
    """Whether `pending` has to be asked for."""
    served: int = 0
    """When it last got something, in the order of all that did."""

    @property
    def id(self) -> str:
        return self.record.id

    def ending(self, now: float) -> Ending | None:
        """Return why it ends before all of its lines had their turn; None while they may run. `now` is a Unix time."""
        if self.record.status is BatchStatus.CANCELLING:
            return Ending.CANCELLED
        if self.record.status is BatchStatus.IN_PROGRESS and now >= self.record.expires_at:
            return Ending.EXPIRED
        return None

    @property
    def finished(self) -> bool:
        """Whether every line had its result when the ledger was asked."""
        counts = self.record.counts
        return counts.completed + counts.failed >= counts.total


@dataclass(frozen=True, slots=True)
class Portion:
    """So many lines of a batch, of those that name a model so, are due."""

    batch: OpenBatch
    name: str
    count: int


class Book:
    """By batch id."""

    def __init__(self) -> None:
        self._open: dict[str, OpenBatch] = {}
        self._served = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[OpenBatch]:
        return iter(list(self._open.values()))

    def __getitem__(self, batch_id: str) -> OpenBatch:
        return self._open[batch_id]

    def get(self, batch_id: str) -> OpenBatch | None:
        return self._open.get(batch_id)

    def renew(self, records: Iterable[BatchRecord]) -> None:
        """Take in what the ledger says is open now."""
        known, self._open = self._open, {}
        for record in records:
            it = known.get(record.id) or OpenBatch(record)
            it.stale = it.stale or it.record.status is not record.status
            it.record = record
            self._open[record.id] = it

    def doubt(self) -> None:
        """What waits has to be asked for anew: it is not known what became of the latest step."""
        for it in self._open.values():
            it.stale = True

    def waiting(self, home: Home, now: float) -> Mapping[str | None, list[tuple[OpenBatch, str]]]:
        """Return what waits, by the model that would answer; None where none could. Those served last stand last."""
        found: dict[str | None, list[tuple[OpenBatch, str]]] = {}
        for it in sorted(self._open.values(), key=lambda it: it.served):
            if it.record.status is not BatchStatus.IN_PROGRESS or it.ending(now):
                continue
            for name, count in it.pending.items():
                if count:
                    found.setdefault(home(it.record, name), []).append((it, name))
        return found

    def portions(self, waiting: Iterable[tuple[OpenBatch, str]], room: int) -> list[Portion]:
        """Divide room for lines of one model among those who have such lines."""
        given = shares(room, [((it, name), it.pending[name]) for it, name in waiting])
        return [Portion(it, name, count) for (it, name), count in given]

    def took(self, portion: Portion, count: int) -> None:
        """So many lines of a portion run now; fewer than there should be means that others took some."""
        self._served += 1
        portion.batch.served = self._served
        portion.batch.pending[portion.name] -= portion.count
        portion.batch.stale = portion.batch.stale or count != portion.count
