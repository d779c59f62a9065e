"""Runs one row: a system, a light load beside the fault, the fault, the invariants."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.faults import expected
from tests.faults.expected import Book, SimBook
from tests.faults.invariants import check_all
from tests.faults.load import Load
from tests.faults.managed import Managed
from tests.faults.outcome import Kind
from tests.faults.row import Mark, Result, Row, Run
from tests.faults.setups import OTHER, VLLM_TOKENS
from tests.faults.system import System
from tests.faults.watcher import Watcher

SIM_TOKENS = 64


class Runner:
    """Keeps the last system, for a row that can use it."""

    def __init__(self, folder: Path, *, long: bool = False, timed: bool = True) -> None:
        self._folder, self._long, self._timed = folder, long, timed
        self._system: System | None = None
        self._books: dict[str, Book] = {}
        self._number = 0

    def run(self, row: Row) -> Result:
        """Run a row. A harness that cannot go on is a broken row, not the end of the suite."""
        began = time.monotonic()
        problems: list[str] = []
        marks: dict[str, str] = {}
        run: Run | None = None
        watcher: Watcher | None = None
        try:
            system = self._system_for(row)
            watcher = Watcher(system)
            model = row.setup.workers[0][0]
            book = self._book(row, system)
            run = Run(system=system, model=model, book=book, watcher=watcher, long=self._long, timed=self._timed)
            watcher.start()
            self._drive(row, run)
            marks, problems = check_all(row, run)
        except Exception:  # noqa: BLE001 - the boundary between two rows
            problems.append(f"the row could not be finished: {traceback.format_exc(limit=-3)}")
            self.drop()
        finally:
            if watcher is not None and run is not None:
                watcher.stop()
        if run is not None:
            problems += run.failures()
        result = _result(row, run, marks, problems, time.monotonic() - began)
        if not row.reuse or problems:
            self.drop()
        return result

    def drop(self) -> None:
        """End the present system. Its folder stays when it is kept for its logs."""
        if self._system is not None:
            self._system.close()
            shutil.rmtree(self._system.folder / "redis", ignore_errors=True)
            self._system = None

    def _drive(self, row: Row, run: Run) -> None:
        beside = None
        if any(model == OTHER for model, _ in row.setup.workers):
            beside = Load(run.system, SimBook(OTHER, 8), run.others, clients=1, pause_s=0.1).start()
        try:
            row.act(run)
        finally:
            if beside is not None:
                beside.stop()
        for outcome in run.outcomes:
            seen = run.watcher.of(outcome.request_id)
            outcome.tries, outcome.migrations = seen.tries, seen.migrations
        _keep(run)

    def _system_for(self, row: Row) -> System:
        if self._system is not None and not (row.reuse and self._system.setup == row.setup):
            self.drop()
        if self._system is None:
            self._number += 1
            kind = Managed if row.setup.managed else System
            self._system = kind(self._folder / f"{self._number:02}-{row.id}", row.setup)
            self._system.start()
        return self._system

    def _book(self, row: Row, system: System) -> Book:
        model = row.setup.workers[0][0]
        if row.engine == "sim":
            return SimBook(model, SIM_TOKENS)
        if model not in self._books:
            self._books[model] = expected.record(system.port(), model, tokens=VLLM_TOKENS)
        return self._books[model]


def _keep(run: Run) -> None:
    """Write down every request that was not answered, with times since the fault, for whoever reads the logs."""
    since = run.fault_at or 0.0
    with (run.system.folder / "not-clean.jsonl").open("a") as file:
        for outcome in (*run.outcomes, *run.others):
            if outcome.kind is not Kind.CLEAN:
                fields = asdict(outcome) | {"began": outcome.began - since, "ended": outcome.ended - since}
                file.write(json.dumps(fields) + "\n")


def _result(row: Row, run: Run | None, marks: dict[str, str], problems: list[str], took_s: float) -> Result:
    outcomes = list(run.outcomes) if run else []
    kinds = Counter(outcome.kind for outcome in outcomes)
    return Result(
        row=row.id,
        fault=row.fault,
        engine=row.engine,
        client_sees=row.client_sees,
        lost=row.lost,
        requests=len(outcomes),
        clean=kinds[Kind.CLEAN],
        retried=sum(1 for o in outcomes if o.tries > 1 and not o.migrations),
        migrated=sum(1 for o in outcomes if o.migrations),
        failed=kinds[Kind.FAILED],
        cut=kinds[Kind.CUT],
        cancelled=kinds[Kind.CANCELLED],
        dirty=kinds[Kind.DIRTY],
        recovery_s=_recovery_s(run),
        longest_gap_s=round(max((o.gap_s for o in outcomes), default=0.0), 2),
        took_s=round(took_s, 1),
        invariants=marks or {f"I{number}": Mark.BROKEN.value for number in range(1, 4)},
        checks=run.checks if run else [],
        problems=problems,
    )


def _recovery_s(run: Run | None) -> float | None:
    """From the fault, or from its end where it lasts, to the first right answer to a request made after that."""
    if run is None or run.fault_at is None:
        return None
    since = run.healed_at or run.fault_at
    ends = [o.ended for o in run.outcomes if o.kind is Kind.CLEAN and o.began >= since]
    return round(min(ends) - since, 2) if ends else None
