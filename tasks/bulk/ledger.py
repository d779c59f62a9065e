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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tasks.bulk.records import BatchRecord, BatchStatus, Counts, FileRecord, Line, Outcome, Taken


class LedgerError(Exception):
    """The database cannot be reached, or is not one of ours. The text says which and what to do; no password."""


class Ledger:
    """Methods raise LedgerError. Build it in the process that uses it; importing the database's library takes 0.2 s."""

    def __init__(self, url: str) -> None:
        """`url` is SQLAlchemy's, for SQLite (`sqlite:////path`) or PostgreSQL (`postgresql+psycopg://…`).

        Makes the file (0600, in WAL mode) and the tables that are missing, at the first use.
        """
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    # --- files

    def add_file(self, file: FileRecord) -> None:
        raise NotImplementedError

    def file(self, file_id: str, owner: str) -> FileRecord | None:
        """Return a file of `owner`'s; None when there is none of this id, or it is somebody else's."""
        raise NotImplementedError

    def files(
        self,
        owner: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[FileRecord]:
        """Return a page: those that follow the file `after`. Ties in time go by id."""
        raise NotImplementedError

    def remove_file(self, file_id: str, owner: str) -> bool:
        """Return whether there was one. Raises `tasks.errors.FileInUseError` while an open batch reads it."""
        raise NotImplementedError

    def expired_files(self, now: int, limit: int = 100) -> list[FileRecord]:
        """Return files of anybody's whose time is over, but for those that an open batch reads."""
        raise NotImplementedError

    # --- batches

    def add_batch(self, batch: BatchRecord, lines: Sequence[Line] = ()) -> bool:
        """Add a batch, with its lines when they are known. Returns False when its id is there already (repeated)."""
        raise NotImplementedError

    def batch(self, batch_id: str, owner: str | None = None) -> BatchRecord | None:
        """Return a batch with its counts; None when there is none, or `owner` is given and it is somebody else's."""
        raise NotImplementedError

    def batches(self, owner: str, *, after: str | None = None, limit: int = 20) -> list[BatchRecord]:
        """Return a page of the batches made of files, the newest first, those that follow the batch `after`."""
        raise NotImplementedError

    def open_batches(self) -> list[BatchRecord]:
        """Return every batch, of any kind, that has not ended; the oldest first. Cheap: it is asked twice a second."""
        raise NotImplementedError

    def move(self, batch_id: str, to: BatchStatus, *, now: int, **fields: Any) -> bool:
        """Advance a batch, write down when, and set `fields` of it too (`output_file_id`, `error_file_id`, `flaws`).

        Returns False, and changes nothing, where `ADVANCES` has no way from its status to `to`.
        """
        raise NotImplementedError

    # --- lines

    def add_lines(self, batch_id: str, lines: Sequence[Line]) -> None:
        """Add lines, and count them. Those whose number is there already are passed over (repeated)."""
        raise NotImplementedError

    def pending(self, batch_id: str) -> dict[str, int]:
        """Return how many lines of a batch wait, by model as the lines have it."""
        raise NotImplementedError

    def take(self, batch_id: str, model: str, count: int) -> list[Taken]:
        """Have up to `count` pending lines of a model run: by prefix, then by number; their attempts go up by one.

        Two callers never take the same line. The request id of a `Taken` is `request_id_of`.
        """
        raise NotImplementedError

    def running(self, batch_ids: Iterable[str] | None = None) -> list[Taken]:
        """Return the lines that run (of open batches when None), as `take` returned them; for a feeder that starts."""
        raise NotImplementedError

    def give_back(self, lines: Sequence[Taken], *, counted: bool = True) -> int:
        """Have running lines wait again, to be tried anew. Not `counted`: the attempt was none. Returns how many."""
        raise NotImplementedError

    def record(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Record results in one transaction, and return those that were news.

        A line that does not run under that request id any more keeps what it has. Counts of
        the batches go up with it.
        """
        raise NotImplementedError

    def end_pending(self, batch_id: str, outcome: Outcome, limit: int = 1000) -> int:
        """End up to `limit` pending lines of a batch with a copy of `outcome` each (its number and request id are
        ignored). Returns how many there were; call it again until there are none.
        """
        raise NotImplementedError

    def results(self, batch_id: str, *, ok: bool) -> Iterator[tuple[str, Outcome]]:
        """Yield (custom_id, outcome) by line number, reading some hundred at a time."""
        raise NotImplementedError

    def forget_results(self, batch_id: str) -> None:
        """Remove lines and results of a batch whose files are written; its counts stay."""
        raise NotImplementedError

    def counts(self, batch_ids: Iterable[str]) -> Mapping[str, Counts]:
        raise NotImplementedError


def request_id_of(batch_id: str, number: int, attempt: int) -> str:
    """Return the id of a line's request: always the same, so that admitting it twice is admitting it once."""
    raise NotImplementedError
