"""What a feeder does while it leads: lines go into the queues, results come back, batches begin and end.

The ledger says what is; what stands here is only how far this process has seen it. So
after any failure it is forgotten, and `resume` begins from the ledger again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import assert_never

import redis

from tasks.bulk import housekeeping
from tasks.bulk.admission import Admission, call, packs
from tasks.bulk.book import Book, Ending, OpenBatch
from tasks.bulk.chores import Chores
from tasks.bulk.closing import Closing
from tasks.bulk.collector import Collector, End
from tasks.bulk.files import FileStore
from tasks.bulk.intake import intake
from tasks.bulk.ledger import Ledger
from tasks.bulk.records import BatchRecord, BatchStatus, Kind, Outcome, Taken
from tasks.bulk.running import Again, Running, expired, failure, verdict
from tasks.bulk.sight import Sight
from tasks.bulk.window import MOST_BYTES, fitting, missing
from tasks.errors import RequestCancelledError, ServingError
from tasks.messages import Call, Failed
from tasks.requests.request_store import RequestStore
from tasks.settings import Settings
from workers.registry_watch import RegistryWatch

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
# Whoever hands something in rings as well (`tasks.bulk.wake`).
_IDLE_LOOK_EVERY_S = 2.4
_LOOKS_APART_S = 0.05
_SEE_EVERY_S = 0.5
_TEND_EVERY_S = 1.0
_SEEK_EVERY_S = 5.0
# What was cancelled ends at once; what Redis has forgotten, never.
_CANCELLED_WITHIN_S = 1.0
# Lines that nothing has to be queued for.
_REFUSED_AT_ONCE = 200
# Results that come in quick succession are recorded together, since each time is a transaction.
_GATHER_S = 0.02
# Nobody reads the wake stream of this one: the feeder knows what it admits.
_GATEWAY = "bulk"


class Feeding:
    """One turn after another, on one thread. Raises redis.RedisError, LedgerError and OSError; then `resume`.

    `now` is a time of the monotonic clock throughout; the clock given to it counts Unix seconds.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        files: FileStore,
        client: redis.Redis,
        blocking: redis.Redis,
        *,
        closing: Closing,
        calls_s: float,
        clock: Callable[[], float],
    ) -> None:
        """`calls_s` is how long the ledger remembers a call whose result was stored. Raises RegistryError."""
        self._settings = settings
        self._ledger = ledger
        self._files = files
        self._closing = closing
        self._calls_s = calls_s
        self._clock = clock
        self._registry = RegistryWatch(settings.models, settings.models_dir)
        self._store = RequestStore(client)
        self._sight = Sight(client)
        self._admission = Admission(settings, files, self._sight)
        self._collector = Collector(client, blocking, self._store)
        self._book = Book()
        self._chores = Chores()
        self._paused: list[tuple[float, Running]] = []
        self._took_s: dict[str, float] = {}
        self._look_at = self._see_at = self._tend_at = self._sweep_at = self._seek_at = float("-inf")
        self._looked_at = self._settled_at = float("-inf")
        self._settled = 0

    def resume(self, now: float) -> None:
        """Begin, or begin again, from what the ledger says."""
        self._collector.clear()
        self._collector.disturbed()
        self._chores.clear()
        self._paused = []
        self._book.doubt()
        self._seek_at = now + _SEEK_EVERY_S
        self._look(now)
        self._see(now)
        taken = self._ledger.running()
        for batch_id, lines in itertools.groupby(taken, key=lambda line: line.batch):
            batch = self._book.get(batch_id)
            if batch is None:
                continue
            if batch.ending(self._clock()):
                self._collector.follow(self._bare(batch.record, line, now) for line in lines)
            else:
                self._admit(batch, list(lines), now)
        if taken:
            log.info("lines followed again", extra={"event": "bulk_resumed", "lines": len(taken)})

    def turn(self, now: float) -> None:
        """Do what is due, then wait up to a second for something to happen."""
        self._registry.poll(now)
        if self._collector.woken:
            self._look_soon(now)
        if now >= self._look_at:
            self._look(now)
        if len(self._book) and now >= self._see_at:
            self._see(now)
        self._feed(now)
        if now >= self._sweep_at:
            self._sweep_at = now + housekeeping.EVERY_S
            self._chores.begin("housekeeping", "sweep", self._sweep, now)
        busy, ended = self._chores.step(now)
        if ended:
            self._look_soon(now)
        self._gather(now)
        self._settle(self._collector.read(0 if busy else self._pause_ms(now), now), now)
        self._try_again(now)
        if now >= self._tend_at:
            self._tend_at = now + _TEND_EVERY_S
            self._tend(now)

    def close(self) -> None:
        self._chores.clear()
        self._admission.close_but(())

    def _gather(self, now: float) -> None:
        """Wait for more results, as long as the queues last: engines fill their seats from them without us."""
        queued, _ = self._collector.count()
        left_s = self._settled_at + _GATHER_S - now
        if left_s > 0 and queued.total() >= 2 * self._settled:
            time.sleep(left_s)

    def _pause_ms(self, now: float) -> int:
        """How long nothing is due."""
        due = min([self._look_at, *(at for at, _ in self._paused)])
        return int(1000 * min(max(due - now, 0.0), _IDLE_LOOK_EVERY_S))

    # --- what is there

    def _look_soon(self, now: float) -> None:
        self._look_at = min(self._look_at, max(now, self._looked_at + _LOOKS_APART_S))

    def _look(self, now: float) -> None:
        """See which batches are open, and begin what is due with each."""
        self._collector.woken = False
        self._looked_at = now
        self._book.renew(self._ledger.open_batches())
        self._look_at = now + (_LOOK_EVERY_S if len(self._book) else _IDLE_LOOK_EVERY_S)
        followed = self._collector.batches()
        followed.update(it.taken.batch for _, it in self._paused)
        lost = False
        for it in self._book:
            if it.stale and it.record.status is BatchStatus.IN_PROGRESS:
                it.pending, it.stale = dict(self._ledger.pending(it.id)), False
            lost = self._begin(it, followed=followed[it.id], now=now) or lost
        self._admission.close_but(it.id for it in self._book)
        if lost and now >= self._seek_at:
            # Lines run of which we know nothing: another feeder had taken them.
            self.resume(now)

    def _begin(self, it: OpenBatch, *, followed: int, now: float) -> bool:
        """Begin what is due with a batch. Returns whether it neither has work nor is finished."""
        record, ending = it.record, it.ending(self._clock())
        if record.status is BatchStatus.VALIDATING:
            make = functools.partial(intake, self._ledger, self._files, record, self._settings, self._clock)
            self._chores.begin(it.id, "intake", make, now)
        elif ending is not None:
            self._chores.begin(it.id, ending, functools.partial(self._wind_up, record, ending), now)
        elif record.status is BatchStatus.FINALIZING or it.finished:
            self._chores.begin(it.id, "complete", functools.partial(self._complete, record), now)
        else:
            return not followed and not any(it.pending.values())
        return False

    def _see(self, now: float) -> None:
        """See which models are ready, and what is to be done about lines of those that are not."""
        self._see_at = now + _SEE_EVERY_S
        waiting = {home for home in self._waiting() if home is not None}
        cold = {it.call.model for it in self._collector if not it.started}
        self._sight.read(waiting | cold)
        self._sight.hasten(waiting | cold, now)
        for model in cold:
            if (error := self._sight.refusal(model)) is not None:
                self._refuse(model, error)
            elif self._is_left(model):
                self._withdraw(model)

    def _is_left(self, model: str) -> bool:
        """Say whether another model answers now to whoever asked for this one, or none does."""
        if model not in self._registry.current().models:
            return True
        said = self._sight.outlook(model)
        return said is not None and bool(said.instead)

    def _waiting(self) -> dict[str | None, list[tuple[OpenBatch, str]]]:
        registry = self._registry.current()
        homes: dict[tuple[str, object], str | None] = {}

        def home(record: BatchRecord, name: str) -> str | None:
            key = name, record.endpoint
            if key not in homes:
                homes[key] = self._admission.home(registry, name, record.endpoint)
            return homes[key]

        return dict(self._book.waiting(home, self._clock()))

    # --- lines go into the queues

    def _feed(self, now: float) -> None:
        """Queue as many lines as there should be of each model; those that nobody could answer end at once."""
        waiting = self._waiting()
        if None in waiting and self._registry.refresh(now):
            # Whoever handed the lines in may have seen a model that we had not.
            waiting = self._waiting()
        if not waiting:
            return
        queued, running = self._collector.count()
        full = self._collector.bytes() >= MOST_BYTES
        for model, batches in waiting.items():
            error = self._sight.refusal(model) if model else None
            room = _REFUSED_AT_ONCE
            if model and not error:
                seats = self._sight.seats(model)
                window = self._settings.bulk_window
                room = 0 if full else missing(seats, queued=queued[model], running=running[model], window=window)
            for portion in self._book.portions(batches, room):
                taken = self._ledger.take(portion.batch.id, portion.name, portion.count)
                if error is not None:
                    self._record([failure(line, error) for line in taken])
                else:
                    taken = self._kept_small(taken)
                    self._admit(portion.batch, taken, now)
                self._book.took(portion, len(taken))
        self._sight.hasten((model for model in waiting if model), now)

    def _kept_small(self, taken: list[Taken]) -> list[Taken]:
        """Return those that Redis is to hold as well; the others wait again."""
        count = fitting([it.line.length for it in taken], self._collector.bytes())
        if rest := taken[count:]:
            self._ledger.give_back(rest, counted=False)
        return taken[:count]

    def _admit(self, batch: OpenBatch, lines: Sequence[Taken], now: float) -> None:
        """Have the calls of lines queued, unless they are; those that the API would refuse end."""
        registry, unix_now = self._registry.current(), self._clock()
        refused: list[Outcome] = []
        for pack in packs(lines):
            calls: list[tuple[Taken, Call]] = []
            for taken in pack:
                made = self._admission.call_of(registry, batch.record, taken, unix_now)
                if isinstance(made, Outcome):
                    refused.append(made)
                else:
                    calls.append((taken, made))
            if calls:
                self._store.admit_all([it for _, it in calls], gateway_id=_GATEWAY)
            self._collector.follow(
                Running(taken=taken, call=dataclasses.replace(it, body=b""), heard_at=now) for taken, it in calls
            )
        self._record(refused)

    def _bare(self, record: BatchRecord, taken: Taken, now: float) -> Running:
        """Return a line as it is followed only to see its end."""
        bare = call(record, taken, taken.line.model, b"", now=self._clock(), total_s=self._settings.total_timeout_s)
        return Running(taken=taken, call=bare, heard_at=now)

    def _refuse(self, model: str, error: ServingError) -> None:
        """End what waits for a model for which that is in vain."""
        queued = self._take_back(model)
        self._record([failure(it.taken, error) for it in queued])
        extra = {"event": "bulk_refused", "model": model, "code": error.code, "lines": len(queued)}
        log.warning("lines refused", extra=extra)

    def _withdraw(self, model: str) -> None:
        """Have lines that wait for a model that does not answer them any more go where they belong now."""
        self._return(self._take_back(model), counted=False)

    def _take_back(self, model: str) -> list[Running]:
        queued = [it for it in self._collector if it.call.model == model and not it.started]
        self._store.cancel_all([it.call for it in queued])
        self._collector.let_go(queued)
        return queued

    # --- results come back

    def _settle(self, ends: Iterable[End], now: float) -> None:
        outcomes: list[Outcome] = []
        cut_short: dict[Ending, list[Taken]] = defaultdict(list)
        for it, end in ends:
            batch = self._book.get(it.taken.batch)
            ending = batch.ending(self._clock()) if batch else None
            result = verdict(it.taken, end)
            cut_off = isinstance(end, Failed) and end.code == RequestCancelledError.code
            if ending is not None and (cut_off or isinstance(result, Again)):
                cut_short[ending].append(it.taken)
            elif isinstance(result, Again):
                self._paused.append((now + result.pause_s, it))
            else:
                outcomes.append(result)
                if batch is not None and batch.record.kind is Kind.CALL and it.started_at is not None:
                    self._took_s[batch.id] = now - it.started_at
        self._give_up(cut_short)
        if outcomes:
            self._settled_at, self._settled = now, len(outcomes)
            self._record(outcomes)
            self._finish_soon({outcome.batch for outcome in outcomes}, now)

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            self._ledger.record(outcomes)
            self._collector.remove([outcome.request_id for outcome in outcomes])

    def _finish_soon(self, batches: Iterable[str], now: float) -> None:
        """Look at once if one of these may be finished now."""
        followed = self._collector.batches()
        for batch_id in batches:
            batch = self._book.get(batch_id)
            if batch is not None and not followed[batch_id] and not any(batch.pending.values()):
                self._look_soon(now)

    def _try_again(self, now: float) -> None:
        """Have lines wait anew whose pause after a failed attempt is over."""
        due = [it for at, it in self._paused if at <= now]
        if due:
            self._paused = [(at, it) for at, it in self._paused if at > now]
            self._return(due, counted=True)

    def _return(self, lines: Sequence[Running], *, counted: bool) -> None:
        if not lines:
            return
        self._ledger.give_back([it.taken for it in lines], counted=counted)
        self._collector.remove([it.taken.request_id for it in lines])
        for it in lines:
            if (batch := self._book.get(it.taken.batch)) is not None:
                name = it.taken.line.model
                batch.pending[name] = batch.pending.get(name, 0) + 1

    def _tend(self, now: float) -> None:
        """Look after what has been silent; what Redis has forgotten is asked for again."""
        forgotten = self._collector.look_after(now)
        if not forgotten:
            return
        log.warning("requests forgotten", extra={"event": "bulk_forgotten", "requests": len(forgotten)})
        self._collector.let_go(forgotten)
        # Of those that ended and whose end is lost there is still a record, which would keep them from being queued.
        self._collector.remove([it.taken.request_id for it in forgotten])
        cut_short: dict[Ending, list[Taken]] = defaultdict(list)
        for it in forgotten:
            batch = self._book.get(it.taken.batch)
            ending = batch.ending(self._clock()) if batch else None
            if ending is not None:
                cut_short[ending].append(it.taken)
            elif batch is not None:
                self._admit(batch, [it.taken], now)
        self._give_up(cut_short)

    # --- batches end

    def _complete(self, record: BatchRecord) -> Iterator[bool]:
        return self._closing.complete(record, self._took_s.pop(record.id, None))

    def _wind_up(self, record: BatchRecord, ending: Ending) -> Iterator[bool]:
        """End a batch before all of its lines had their turn."""
        self._store.cancel_all([it.call for it in self._collector.of_batch(record.id)])
        yield True
        give_up = time.monotonic() + _CANCELLED_WITHIN_S
        while self._collector.of_batch(record.id) and time.monotonic() < give_up:
            yield False
        self._collector.let_go(self._collector.of_batch(record.id))
        self._paused = [(at, it) for at, it in self._paused if it.taken.batch != record.id]
        self._give_up({ending: self._ledger.running([record.id])})
        match ending:
            case Ending.EXPIRED:
                yield from self._closing.expire(record)
            case Ending.CANCELLED:
                yield from self._closing.cancel(record)
            case _:
                assert_never(ending)

    def _give_up(self, cut_short: Mapping[Ending, Sequence[Taken]]) -> None:
        """Have lines that ran when their batch ended fail with it, or be dropped with it."""
        self._record([expired(taken.batch, taken) for taken in cut_short.get(Ending.EXPIRED, ())])
        if dropped := cut_short.get(Ending.CANCELLED):
            # So that no late answer is counted which is in no file.
            self._ledger.give_back(dropped)
            self._collector.remove([taken.request_id for taken in dropped])

    def _sweep(self) -> Iterator[bool]:
        return housekeeping.sweep(self._ledger, self._files, calls_s=self._calls_s, now=self._clock())
