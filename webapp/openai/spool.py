"""Content of files between a client and the disk, a piece at a time and off the loop."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

from tasks.errors import ServiceUnavailableError
from webapp import off_loop

log = logging.getLogger(__name__)

# A disk is a thread's errand, so it has to be worth one.
_PIECE_BYTES = 256 * 1024
# The ledger and Redis may write to the same disk, and when they cannot, nobody is served.
_LEAVE_FREE_BYTES = 256 << 20


class Spool:
    """A file that an upload is written to."""

    def __init__(self, path: Path, leave_free_bytes: int = _LEAVE_FREE_BYTES) -> None:
        self._path = path
        self._leave_free_bytes = leave_free_bytes
        self._pending = bytearray()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._file = off_loop.run(lambda: self._path.open("wb", buffering=0))
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, data: bytes) -> None:
        """Raises ServiceUnavailableError when the disk takes no more, or is to take no more of uploads."""
        self._pending += data
        if len(self._pending) >= _PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        piece, self._pending = bytes(self._pending), bytearray()
        try:
            off_loop.run(lambda: self._write(piece))
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
            log.error("upload not stored", extra={"event": "upload_not_stored", "reason": reason})
            raise ServiceUnavailableError(
                "The file cannot be stored now; ask your operator, or try again later."
            ) from None

    def _write(self, piece: bytes) -> None:
        assert self._file is not None
        disk = os.fstatvfs(self._file.fileno())
        if disk.f_bavail * disk.f_frsize < self._leave_free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left = memoryview(piece)
        while left:  # a raw file may take less than it is given
            left = left[self._file.write(left) :]


class Content:
    """An open file as the body of an answer. It is closed at its end, or with the answer."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def __iter__(self) -> Iterator[bytes]:
        with self._file:
            while piece := off_loop.run(lambda: self._file.read(min(_PIECE_BYTES, self._left))):
                self._left -= len(piece)
                yield piece

    def close(self) -> None:
        self._file.close()
