"""`tasks.bulk.desk` over the ledger and the folder of files."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Self

import redis

from tasks.bulk.files import FileStore, is_file_id, new_file_id
from tasks.bulk.ledger import Ledger, LedgerError
from tasks.bulk.records import BatchRecord, BatchStatus, FileRecord, Kind, Line
from tasks.bulk.wake import wake
from tasks.connections import command_client
from tasks.errors import (
    BatchEndedError,
    BatchNotFoundError,
    FileNotFoundHereError,
    InvalidRequestError,
    ServiceUnavailableError,
    TooManyBatchesError,
)
from tasks.messages import Endpoint
from tasks.settings import Settings

log = logging.getLogger(__name__)

WINDOWS_S = {"24h": 86_400}
BATCH_PURPOSE = "batch"

_BATCH_ID = re.compile(r"batch_[0-9a-f]{24}")
_NO_FILE = "There is no file of this id."
_NO_BATCH = "There is no batch of this id."


class LedgerDesk:
    """Build it in the process that uses it. Usable from several threads at once."""

    def __init__(
        self, ledger: Ledger, store: FileStore, client: redis.Redis, now: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._client = client
        self._now = now

    @classmethod
    def over(cls, settings: Settings) -> Self:
        """Raises ServiceUnavailableError when the settings name no database of ours."""
        with _in_reach():
            ledger = Ledger(settings.ledger_url)
        return cls(ledger, FileStore(settings.files), command_client(settings.redis_url))

    def new_upload(self) -> Path:
        with _in_reach():
            return self._store.new_upload()

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
        id_ = file_id or new_file_id()
        with _in_reach():
            size = self._store.keep(upload, id_)
            now = int(self._now())
            file = FileRecord(
                id=id_,
                owner=owner,
                name=name.replace("\0", ""),
                purpose=purpose,
                size=size,
                created_at=now,
                expires_at=None if expires_after_s is None else now + expires_after_s,
            )
            with contextlib.ExitStack() as undo:
                # One that is written again may be somebody's already.
                if file_id is None:
                    undo.callback(self._store.give_up, id_)
                self._ledger.add_file(file)
                undo.pop_all()
        return file

    def file(self, file_id: str, owner: str, *others: str) -> FileRecord:
        with _in_reach():
            found = self._ledger.file(file_id, owner, *others) if is_file_id(file_id) else None
        if found is None:
            raise FileNotFoundHereError(_NO_FILE, param="file_id")
        return found

    def files(
        self,
        owner: str,
        *others: str,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> tuple[list[FileRecord], bool]:
        if after is not None and not is_file_id(after):
            return [], False
        with _in_reach():
            page = self._ledger.files(
                owner, *others, purpose=purpose, after=after, limit=limit + 1, newest_first=newest_first
            )
        return page[:limit], len(page) > limit

    def open(self, file_id: str, owner: str, *others: str) -> IO[bytes]:
        self.file(file_id, owner, *others)
        with _in_reach():
            try:
                return self._store.open(file_id)
            except FileNotFoundError:
                # Deleted at this moment.
                raise FileNotFoundHereError(_NO_FILE, param="file_id") from None

    def delete_file(self, file_id: str, owner: str, *others: str) -> None:
        with _in_reach():
            if not is_file_id(file_id) or not self._ledger.remove_file(file_id, owner, *others):
                raise FileNotFoundHereError(_NO_FILE, param="file_id")
            self._store.remove(file_id)

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
        if window not in WINDOWS_S:
            text = f"'completion_window' must be {' or '.join(map(repr, WINDOWS_S))}."
            raise InvalidRequestError(text, param="completion_window")
        try:
            file = self.file(input_file_id, owner)
        except FileNotFoundHereError:
            raise FileNotFoundHereError(_NO_FILE, param="input_file_id") from None
        if file.purpose != BATCH_PURPOSE:
            text = f"The file's purpose is '{file.purpose}'; that of a batch's input must be '{BATCH_PURPOSE}'."
            raise InvalidRequestError(text, param="input_file_id")
        self._refuse_more_than(max_open, owner)
        now = int(self._now())
        batch = BatchRecord(
            id=f"batch_{secrets.token_hex(12)}",
            kind=Kind.FILE,
            owner=owner,
            endpoint=endpoint,
            input_file_id=input_file_id,
            status=BatchStatus.VALIDATING,
            created_at=now,
            expires_at=now + WINDOWS_S[window],
            window=window,
            max_lines=max_lines,
            output_expires_after_s=output_expires_after_s,
            metadata=dict(metadata or {}),
        )
        with _in_reach():
            self._ledger.add_batch(batch, reads_file=True)
        wake(self._client, batch.id)
        return batch

    def _refuse_more_than(self, most: int | None, owner: str) -> None:
        """Each open batch costs the feeder a little, whenever it looks. Of several at once one may slip by."""
        if most is None:
            return
        with _in_reach():
            count = self._ledger.count_open(owner)
        if count >= most:
            raise TooManyBatchesError(f"{count} of your batches have not ended; wait for one of them, or cancel it.")

    def call(self, *, task_id: str, endpoint: Endpoint, model: str, body: bytes) -> None:
        now = int(self._now())
        batch = BatchRecord(
            id=task_id,
            kind=Kind.CALL,
            owner="",
            endpoint=endpoint,
            input_file_id="",
            status=BatchStatus.IN_PROGRESS,
            created_at=now,
            expires_at=now + WINDOWS_S["24h"],
            in_progress_at=now,
        )
        line = Line(number=1, custom_id=task_id, model=model, endpoint=endpoint, length=len(body), body=body)
        with _in_reach():
            self._ledger.add_batch(batch, [line])
        wake(self._client, task_id)

    def batch(self, batch_id: str, owner: str, *others: str) -> BatchRecord:
        with _in_reach():
            found = self._ledger.batch(batch_id, owner, *others) if _BATCH_ID.fullmatch(batch_id) else None
        if found is None or found.kind is Kind.CALL:
            raise BatchNotFoundError(_NO_BATCH, param="batch_id")
        return found

    def batches(
        self, owner: str, *others: str, after: str | None = None, limit: int = 20
    ) -> tuple[list[BatchRecord], bool]:
        if after is not None and not _BATCH_ID.fullmatch(after):
            return [], False
        with _in_reach():
            page = self._ledger.batches(owner, *others, after=after, limit=limit + 1)
        return page[:limit], len(page) > limit

    def cancel(self, batch_id: str, owner: str, *others: str) -> BatchRecord:
        self.batch(batch_id, owner, *others)
        with _in_reach():
            moved = self._ledger.move(batch_id, BatchStatus.CANCELLING, now=int(self._now()))
        found = self.batch(batch_id, owner, *others)
        if moved:
            wake(self._client, batch_id)
        elif found.status is not BatchStatus.CANCELLING:
            text = f"The batch is '{found.status}' already, and cannot be cancelled any more."
            raise BatchEndedError(text, param="batch_id")
        return found

    def close(self) -> None:
        self._ledger.close()
        self._client.close()


@contextlib.contextmanager
def _in_reach() -> Iterator[None]:
    """Tell the caller what it may know of a failure, and the log what an operator must."""
    try:
        yield
    except (LedgerError, OSError) as error:
        log.error("bulk work out of reach", extra={"event": "bulk_unreachable", "error": str(error)})
        raise ServiceUnavailableError("Bulk work is out of reach now; try again in a moment.") from error
