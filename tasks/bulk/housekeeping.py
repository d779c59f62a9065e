"""What is swept away once a minute: files whose time is over, uploads that nobody finished, calls long answered.

Of batches, the lines of those that had ended when whoever ended them died.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from tasks.bulk.closing import forget
from tasks.bulk.files import FileStore
from tasks.bulk.ledger import Ledger
from tasks.errors import FileInUseError

log = logging.getLogger(__name__)

EVERY_S = 60.0
_UPLOAD_S = 86_400
_AT_ONCE = 100


def sweep(ledger: Ledger, files: FileStore, *, calls_s: float, now: float) -> Iterator[bool]:
    """Go slice by slice. `now` is a Unix time; a call is forgotten `calls_s` after its end."""
    removed = 0
    while expired := ledger.expired_files(int(now), _AT_ONCE):
        gone = 0
        for file in expired:
            try:
                gone += ledger.remove_file(file.id, file.owner)
            except FileInUseError:
                continue
            files.remove(file.id)
        removed += gone
        yield True
        if not gone:
            break
    swept = files.sweep_uploads(now - _UPLOAD_S)
    yield True
    while ledger.forget_calls(int(now - calls_s)):
        yield True
    for batch_id in ledger.leftovers():
        yield from forget(ledger, batch_id)
    if removed or swept:
        log.info("files swept", extra={"event": "files_swept", "expired": removed, "uploads": swept})
