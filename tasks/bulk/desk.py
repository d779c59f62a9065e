"""Where bulk work is handed in and asked for: by the gateway, by `tasks.batch` and by `tasks.chat`.

It keeps to what the caller owns, and `others` whose work the caller may see to as well. The
feeder is told at once of what it should look at (`keys.BULK_WAKE`); if Redis is away it
finds out by itself within a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

from tasks.bulk.records import BatchRecord, FileRecord
from tasks.messages import Endpoint


class Desk(Protocol):
    """Blocking. Every method raises ServiceUnavailableError when the ledger is out of reach."""

    def new_upload(self) -> Path:
        """Return a path of a new, empty file (0600), on the file system of the stored ones, to write an upload to.

        What was begun and never kept is swept away after a day.
        """
        ...

    def keep(
        self,
        upload: Path,
        *,
        owner: str,
        name: str,
        purpose: str,
        expires_after_s: int | None = None,
        file_id: str | None = None,
    ) -> FileRecord:
        """Make a finished upload a file of `owner`'s. Durable when this returns.

        `file_id`: of what may be written several times, after a crash say; the first one stays. None: a new one.
        """
        ...

    def file(self, file_id: str, owner: str, *others: str) -> FileRecord:
        """Raises FileNotFoundHereError (`file_not_found`)."""
        ...

    def files(
        self,
        owner: str,
        *others: str,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> tuple[list[FileRecord], bool]:
        """Return a page, and whether there are more."""
        ...

    def open(self, file_id: str, owner: str, *others: str) -> IO[bytes]:
        """Open the content of a file. Raises FileNotFoundHereError."""
        ...

    def delete_file(self, file_id: str, owner: str, *others: str) -> None:
        """Raises FileNotFoundHereError, and FileInUseError while a batch that has not ended reads it."""
        ...

    def create(
        self,
        *,
        owner: str,
        input_file_id: str,
        endpoint: Endpoint | None,
        window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after_s: int | None = None,
        max_lines: int | None = None,
        max_open: int | None = None,
    ) -> BatchRecord:
        """Accept a batch; its file is looked through afterwards, by the feeder. Durable when this returns.

        Raises FileNotFoundHereError, InvalidRequestError when the file's purpose is not `batch`, and
        TooManyBatchesError when `max_open` batches of the owner have not ended.
        """
        ...

    def call(self, *, task_id: str, endpoint: Endpoint, model: str, body: bytes) -> None:
        """Accept one `celery call`, whose body was checked. Repeating it is harmless."""
        ...

    def batch(self, batch_id: str, owner: str, *others: str) -> BatchRecord:
        """Raises BatchNotFoundError (`batch_not_found`)."""
        ...

    def batches(
        self, owner: str, *others: str, after: str | None = None, limit: int = 20
    ) -> tuple[list[BatchRecord], bool]:
        """Return a page, the newest first, and whether there are more."""
        ...

    def cancel(self, batch_id: str, owner: str, *others: str) -> BatchRecord:
        """Begin to cancel a batch. Raises BatchNotFoundError, and BatchEndedError (`batch_ended`)."""
        ...

    def close(self) -> None: ...
