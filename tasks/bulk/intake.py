"""A batch's file becomes its lines, slice by slice, so that nobody waits for a large one.

It can be broken off anywhere: the next one looks at the file from its beginning, since no
custom id may be repeated, and adds the lines that are not there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from tasks.bulk.closing import forget
from tasks.bulk.files import FileStore
from tasks.bulk.input import InputFile, Terms
from tasks.bulk.ledger import Ledger
from tasks.bulk.records import BatchRecord, BatchStatus, Flaw, Line
from tasks.settings import Settings

log = logging.getLogger(__name__)

_LINES = 1000
_SLICE_S = 0.02
_LOOK_EVERY = 20


def intake(
    ledger: Ledger, files: FileStore, batch: BatchRecord, settings: Settings, now: Callable[[], float]
) -> Iterator[bool]:
    """Take in a batch that is validating. Raises LedgerError, and OSError where the disk does.

    `now` counts Unix seconds.
    """
    try:
        file = files.open(batch.input_file_id)
    except FileNotFoundError:
        yield from _fail(ledger, batch, (Flaw("file_not_found", "The input file is gone."),), now)
        return
    with file:
        terms = Terms(endpoint=batch.endpoint, max_line_bytes=settings.max_body_bytes, max_lines=batch.max_lines)
        reading = InputFile(file, terms)
        lines: list[Line] = []
        began = time.monotonic()
        for chunk in reading.chunks(after=ledger.last_line(batch.id), size=_LOOK_EVERY):
            lines += chunk
            if len(lines) >= _LINES or time.monotonic() - began > _SLICE_S:
                ledger.add_lines(batch.id, lines)
                lines = []
                yield True
                began = time.monotonic()
        if reading.flaws:
            yield from _fail(ledger, batch, reading.flaws, now)
            return
        ledger.add_lines(batch.id, lines)
    if ledger.move(batch.id, BatchStatus.IN_PROGRESS, now=int(now())):
        log.info("batch accepted", extra={"event": "batch_accepted", "batch": batch.id})


def _fail(ledger: Ledger, batch: BatchRecord, flaws: tuple[Flaw, ...], now: Callable[[], float]) -> Iterator[bool]:
    if ledger.move(batch.id, BatchStatus.FAILED, now=int(now()), flaws=flaws):
        extra = {"event": "batch_refused", "batch": batch.id, "flaws": len(flaws), "code": flaws[0].code}
        log.info("batch refused", extra=extra)
        # Unless it was ours to end: its lines may be running under another feeder, which sees the file.
        yield from forget(ledger, batch.id)
