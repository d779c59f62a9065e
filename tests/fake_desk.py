"""A desk of bulk work that keeps everything in memory, its files apart; nothing is ever worked on."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TypeVar

from tasks.bulk.desk import Desk
from tasks.bulk.records import ADVANCES, BatchRecord, BatchStatus, FileRecord, Kind
from tasks.errors import (
    BatchEndedError,
    BatchNotFoundError,
    FileInUseError,
    FileNotFoundHereError,
    InvalidRequestError,
    ServingError,
    TooManyBatchesError,
)
from tasks.messages import Endpoint

R = TypeVar("R", FileRecord, BatchRecord)


@dataclass
class FakeDesk:
    """Its clock goes on by a second with each record."""

    folder: Path
    refusal: ServingError | None = None
    """Raised instead of every answer."""
    kept_files: dict[str, FileRecord] = field(default_factory=dict)
    kept_batches: dict[str, BatchRecord] = field(default_factory=dict)
    closed: bool = False
    _seconds: itertools.count[int] = field(default_factory=lambda: itertools.count(1_800_000_000))

    def new_upload(self) -> Path:
        self._check()
        path = self.folder / f"upload-{secrets.token_hex(4)}"
        path.touch(0o600)
        return path

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
        self._check()
        now = next(self._seconds)
        record = FileRecord(
            id=file_id or f"file-{secrets.token_hex(12)}",
            owner=owner,
            name=name,
            purpose=purpose,
            size=upload.stat().st_size,
            created_at=now,
            expires_at=None if expires_after_s is None else now + expires_after_s,
        )
        upload.replace(self.folder / record.id)
        self.kept_files[record.id] = record
        return record

    def file(self, file_id: str, owner: str, *others: str) -> FileRecord:
        self._check()
        record = self.kept_files.get(file_id)
        if record is None or record.owner not in (owner, *others):
            raise FileNotFoundHereError("There is no file of this id.", param="file_id")
        return record

    def files(
        self,
        owner: str,
        *others: str,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> tuple[list[FileRecord], bool]:
        self._check()
        owned = [f for f in self.kept_files.values() if f.owner in (owner, *others) and purpose in (None, f.purpose)]
        return _page(owned[::-1] if newest_first else owned, after, limit)

    def open(self, file_id: str, owner: str, *others: str) -> IO[bytes]:
        return (self.folder / self.file(file_id, owner, *others).id).open("rb")

    def delete_file(self, file_id: str, owner: str, *others: str) -> None:
        self.file(file_id, owner, *others)
        if any(b.input_file_id == file_id and ADVANCES[b.status] for b in self.kept_batches.values()):
            raise FileInUseError("A batch that has not ended reads this file.")
        del self.kept_files[file_id]
        (self.folder / file_id).unlink()

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
        self._check()
        record = self.kept_files.get(input_file_id)
        if record is None or record.owner != owner:
            raise FileNotFoundHereError("There is no file of this id.", param="input_file_id")
        if record.purpose != "batch":
            raise InvalidRequestError("The file's purpose is not 'batch'.", param="input_file_id")
        unfinished = sum(b.owner == owner and bool(ADVANCES[b.status]) for b in self.kept_batches.values())
        if max_open is not None and unfinished >= max_open:
            raise TooManyBatchesError("Too many batches have not ended.")
        now = next(self._seconds)
        batch = BatchRecord(
            id=f"batch_{secrets.token_hex(12)}",
            kind=Kind.FILE,
            owner=owner,
            endpoint=endpoint,
            input_file_id=input_file_id,
            status=BatchStatus.VALIDATING,
            created_at=now,
            expires_at=now + 86_400,
            window=window,
            max_lines=max_lines,
            output_expires_after_s=output_expires_after_s,
            metadata=dict(metadata or {}),
        )
        self.kept_batches[batch.id] = batch
        return batch

    def call(self, *, task_id: str, endpoint: Endpoint, model: str, body: bytes) -> None:
        raise AssertionError("a gateway hands in no `celery call`")

    def batch(self, batch_id: str, owner: str, *others: str) -> BatchRecord:
        self._check()
        record = self.kept_batches.get(batch_id)
        if record is None or record.owner not in (owner, *others):
            raise BatchNotFoundError("There is no batch of this id.", param="batch_id")
        return record

    def batches(
        self, owner: str, *others: str, after: str | None = None, limit: int = 20
    ) -> tuple[list[BatchRecord], bool]:
        self._check()
        return _page([b for b in self.kept_batches.values() if b.owner in (owner, *others)][::-1], after, limit)

    def cancel(self, batch_id: str, owner: str, *others: str) -> BatchRecord:
        record = self.batch(batch_id, owner, *others)
        if record.status is BatchStatus.CANCELLING:
            return record
        if BatchStatus.CANCELLING not in ADVANCES[record.status]:
            raise BatchEndedError("The batch has ended.", param="batch_id")
        record = replace(record, status=BatchStatus.CANCELLING, cancelling_at=next(self._seconds))
        self.kept_batches[batch_id] = record
        return record

    def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.refusal is not None:
            raise self.refusal


def _page(records: list[R], after: str | None, limit: int) -> tuple[list[R], bool]:
    ids = [record.id for record in records]
    start = 0 if after is None else ids.index(after) + 1 if after in ids else len(ids)
    return records[start : start + limit], len(records) > start + limit


def _checked(desk: FakeDesk) -> Desk:
    return desk
