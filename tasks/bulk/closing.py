"""The end of a batch: its files are written, or its caller's result, and then it says that it has ended.

Each function goes slice by slice and says at each `yield` whether there is more to do at
once. Whatever is broken off is done again from its beginning, which shows nowhere: a file
is there when it is whole, and one that a predecessor has finished is taken over. Who is
late finds no lines any more, so what it has written of them never replaces anything.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from tasks.bulk.desk import Desk
from tasks.bulk.files import file_id_of
from tasks.bulk.ledger import Ledger
from tasks.bulk.records import BatchRecord, BatchStatus, Kind, Outcome
from tasks.bulk.results import result_line
from tasks.bulk.running import expired
from tasks.errors import FileNotFoundHereError

log = logging.getLogger(__name__)

OUTPUT_PURPOSE = "batch_output"
_LINES = 200
_MOST_ENDED = 1000
_FORGOTTEN_AT_ONCE = 1000


def forget(ledger: Ledger, batch_id: str) -> Iterator[bool]:
    """Remove the lines of a batch that needs them no more."""
    while ledger.forget_some(batch_id, _FORGOTTEN_AT_ONCE):
        yield True


class CallResults(Protocol):
    """Where the result of a `celery call` goes."""

    def store(self, task_id: str, outcome: Outcome, took_s: float | None) -> None:
        """Raises when it cannot be written now. Repeating it is harmless. `took_s`: from the claim to the end."""
        ...


class Closing:
    """Methods raise LedgerError, and ServingError or OSError where the disk does."""

    def __init__(self, ledger: Ledger, desk: Desk, results: CallResults, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._desk = desk
        self._results = results
        self._now = now

    def complete(self, batch: BatchRecord, took_s: float | None) -> Iterator[bool]:
        """End a batch all of whose lines have ended; a call took so long."""
        if batch.status is BatchStatus.IN_PROGRESS:
            self._ledger.move(batch.id, BatchStatus.FINALIZING, now=int(self._now()))
        yield from self._close(batch, BatchStatus.COMPLETED, took_s)

    def expire(self, batch: BatchRecord) -> Iterator[bool]:
        """End a batch whose time is over: what waits fails. No line of it runs."""
        while self._ledger.end_pending(batch.id, expired(batch.id), _MOST_ENDED):
            yield True
        yield from self._close(batch, BatchStatus.EXPIRED)

    def cancel(self, batch: BatchRecord) -> Iterator[bool]:
        """End a batch that was cancelled, with the results that there are. Its other lines are dropped."""
        yield from self._close(batch, BatchStatus.CANCELLED)

    def _close(self, batch: BatchRecord, to: BatchStatus, took_s: float | None = None) -> Iterator[bool]:
        files: dict[str, str] = {}
        if batch.kind is Kind.CALL:
            for ok in (True, False):
                for _, outcome in self._ledger.results(batch.id, ok=ok):
                    self._results.store(batch.id, outcome, took_s)
        else:
            for field, ok in (("output_file_id", True), ("error_file_id", False)):
                made = yield from self._written(batch, ok=ok)
                files |= {field: made} if made else {}
        if self._ledger.move(batch.id, to, now=int(self._now()), **files):
            log.info("batch ended", extra={"event": "batch_ended", "batch": batch.id, "status": to.value})
            yield from forget(self._ledger, batch.id)

    def _written(self, batch: BatchRecord, *, ok: bool) -> Generator[bool, None, str | None]:
        """Return the id of the file of the lines that went well, or of the others; None where there are none."""
        name = f"{batch.id}_{'output' if ok else 'error'}.jsonl"
        file_id = file_id_of(name)
        with contextlib.suppress(FileNotFoundHereError):
            return self._desk.file(file_id, batch.owner).id
        lines = self._ledger.results(batch.id, ok=ok)
        first = next(lines, None)
        if first is None:
            return None
        upload = self._desk.new_upload()
        try:
            with upload.open("wb") as file:
                file.write(result_line(*first))
                for number, (custom_id, outcome) in enumerate(lines):
                    file.write(result_line(custom_id, outcome))
                    if number % _LINES == 0:
                        yield True
            kept = self._desk.keep(
                upload,
                owner=batch.owner,
                name=name,
                purpose=OUTPUT_PURPOSE,
                expires_after_s=batch.output_expires_after_s,
                file_id=file_id,
            )
        finally:
            upload.unlink(missing_ok=True)  # what was kept is there no more
        return kept.id
