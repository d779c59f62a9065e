"""The ledger of bulk work: files, batches, lines and results in a database, SQLite or PostgreSQL.

Every method is one transaction, blocking, and safe to repeat; several processes may use
one ledger at once. A line moves

    pending ──take──▶ running ──record──▶ done | failed
       ▲                 │
       └────give_back────┘

and whatever was delivered twice, or ended in two places, is recorded once: `record` and
`give_back` move only a line that runs, under the attempt it runs under.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection

from tasks.bulk import ledger_batches, ledger_files, ledger_lines
from tasks.bulk.ledger_database import Database, LedgerError
from tasks.bulk.ledger_lines import request_id_of
from tasks.bulk.records import BatchRecord, BatchStatus, FileRecord, Line, Outcome, Taken

__all__ = ["Ledger", "LedgerError", "request_id_of"]

# Each has its body, which may be some MiB.
_RESULTS_AT_ONCE = 25


class Ledger:
    """Methods raise LedgerError. Build it in the process that uses it; importing the database's library takes 0.2 s."""

    def __init__(self, url: str) -> None:
        """`url` is SQLAlchemy's, for SQLite (`sqlite:////path`) or PostgreSQL (`postgresql+psycopg://…`).

        Makes the file (0600, in WAL mode) and the tables that are missing, at the first use.
        """
        self._database = Database(url)

    def close(self) -> None:
        self._database.close()

    # --- files

    def add_file(self, file: FileRecord) -> None:
        self._database.write(lambda c: ledger_files.add(c, file))

    def file(self, file_id: str, *owners: str) -> FileRecord | None:
        """Return a file of one of `owners`; None when there is none of this id, or it is somebody else's."""
        return self._database.read(lambda c: ledger_files.find(c, file_id, owners))

    def files(
        self,
        *owners: str,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[FileRecord]:
        """Return a page: those that follow the file `after`. Ties in time go by id."""
        return self._database.read(
            lambda c: ledger_files.page(c, owners, purpose=purpose, after=after, limit=limit, newest_first=newest_first)
        )

    def remove_file(self, file_id: str, *owners: str) -> bool:
        """Return whether there was one. Raises `tasks.errors.FileInUseError` while an open batch reads it."""
        return self._database.write(lambda c: ledger_files.remove(c, file_id, owners))

    def expired_files(self, now: int, limit: int = 100) -> list[FileRecord]:
        """Return files of anybody's whose time is over, but for those that an open batch reads."""
        return self._database.read(lambda c: ledger_files.expired(c, now, limit))

    # --- batches

    def add_batch(self, batch: BatchRecord, lines: Sequence[Line] = (), *, reads_file: bool = False) -> bool:
        """Add a batch, with its lines when they are known. Returns False when its id is there already (repeated).

        `reads_file`: raises `tasks.errors.FileNotFoundHereError` unless its input file is its owner's; from then on
        the file cannot be removed.
        """

        def work(c: Connection) -> bool:
            key = ledger_batches.add(c, batch, reads_file=reads_file)
            if key is not None:
                ledger_lines.add(c, key, lines)
            return key is not None

        return self._database.write(work)

    def batch(self, batch_id: str, *owners: str) -> BatchRecord | None:
        """Return a batch with its counts; None when there is none, or `owners` are given and it is somebody else's."""
        return self._database.read(lambda c: ledger_batches.find(c, batch_id, owners))

    def batches(self, *owners: str, after: str | None = None, limit: int = 20) -> list[BatchRecord]:
        """Return a page of the batches made of files, the newest first, those that follow the batch `after`."""
        return self._database.read(lambda c: ledger_batches.page(c, owners, after=after, limit=limit))

    def open_batches(self) -> list[BatchRecord]:
        """Return every batch, of any kind, that has not ended; the oldest first. Cheap: it is asked twice a second."""
        return self._database.read(ledger_batches.open_ones)

    def count_open(self, owner: str) -> int:
        """Return how many batches of files of an owner's have not ended."""
        return self._database.read(lambda c: ledger_batches.count_open(c, owner))

    def move(self, batch_id: str, to: BatchStatus, *, now: int, **fields: Any) -> bool:
        """Advance a batch, write down when, and set `fields` of it too (`output_file_id`, `error_file_id`, `flaws`).

        Returns False, and changes nothing, where `ADVANCES` has no way from its status to `to`.
        """
        return self._database.write(lambda c: ledger_batches.move(c, batch_id, to, now, fields))

    def forget_calls(self, before: int, limit: int = 1000) -> int:
        """Remove up to `limit` calls that ended before that time. Returns how many there were.

        A call whose task is delivered again after that is run again.
        """
        return self._database.write(lambda c: ledger_batches.forget_calls(c, before, limit))

    # --- lines

    def add_lines(self, batch_id: str, lines: Sequence[Line]) -> None:
        """Add lines, and count them. Those whose number is there already are passed over (repeated).

        Lines of a batch that there is not are passed over too.
        """

        def work(c: Connection) -> None:
            key = ledger_batches.lock(c, batch_id)
            if key is not None:
                ledger_lines.add(c, key, lines)

        self._database.write(work)

    def last_line(self, batch_id: str) -> int:
        """Return the greatest number among the lines of a batch; 0 when it has none. An intake goes on after it."""
        return self._database.read(lambda c: ledger_lines.last(c, batch_id))

    def pending(self, batch_id: str) -> dict[str, int]:
        """Return how many lines of a batch wait, by model as the lines have it."""
        return self._database.read(lambda c: ledger_batches.pending(c, batch_id))

    def take(self, batch_id: str, model: str, count: int) -> list[Taken]:
        """Have up to `count` pending lines of a model run: by prefix, then by number; their attempts go up by one.

        Of a batch that is not in progress none are: a feeder that comes late begins nothing that was ended.
        Two callers never take the same line. The request id of a `Taken` is `request_id_of`. After a LedgerError it
        is not known whether lines were taken: `running` tells.
        """
        return self._database.write(lambda c: ledger_lines.take(c, batch_id, model, count), durable=False)

    def running(self, batch_ids: Iterable[str] | None = None) -> list[Taken]:
        """Return the lines that run (of open batches when None), as `take` returned them; for a feeder that starts."""
        wanted = None if batch_ids is None else frozenset(batch_ids)
        return self._database.read(lambda c: ledger_lines.running(c, wanted))

    def give_back(self, lines: Sequence[Taken], *, counted: bool = True) -> int:
        """Have running lines wait again, to be tried anew. Not `counted`: the attempt was none. Returns how many."""
        return self._database.write(lambda c: ledger_lines.give_back(c, lines, counted=counted), durable=False)

    def record(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Record results in one transaction, and return those that were news.

        A line that does not run under that request id any more keeps what it has. Counts of
        the batches go up with it.
        """
        return self._database.write(lambda c: ledger_lines.record(c, outcomes))

    def end_pending(self, batch_id: str, outcome: Outcome, limit: int = 1000) -> int:
        """End up to `limit` pending lines of a batch with a copy of `outcome` each (its number and request id are
        ignored). Returns how many there were; call it again until there are none.
        """
        return self._database.write(lambda c: ledger_lines.end_pending(c, batch_id, outcome, limit))

    def results(self, batch_id: str, *, ok: bool) -> Iterator[tuple[str, Outcome]]:
        """Yield (custom_id, outcome) by line number, reading some hundred at a time."""
        number = 0
        while page := self._results_after(batch_id, number, ok=ok):
            yield from page
            number = page[-1][1].number

    def forget_some(self, batch_id: str, limit: int) -> bool:
        """Remove up to `limit` lines, with their results, of a batch that needs them no more; its counts stay.

        Returns whether any were there; call it again until there are none.
        """
        return self._database.write(lambda c: ledger_lines.forget(c, batch_id, limit))

    def leftovers(self, limit: int = 100) -> list[str]:
        """Return batches of files that have ended and still have their lines: whoever ended them died meanwhile."""
        return self._database.read(lambda c: ledger_batches.leftovers(c, limit))

    def _results_after(self, batch_id: str, number: int, *, ok: bool) -> list[tuple[str, Outcome]]:
        return self._database.read(
            lambda c: ledger_lines.results_after(c, batch_id, number, ok=ok, limit=_RESULTS_AT_ONCE)
        )
