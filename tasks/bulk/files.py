"""Where the contents of files lie: one folder, each under its id; what is being written lies in `uploads/` beside them.

A content is complete or not there, and never changes: it is written elsewhere on the same
file system, synced and then given its name.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from hashlib import blake2b
from pathlib import Path
from typing import IO

from tasks.bulk.folders import make_private, sync_folder

_ID = re.compile(r"file-[0-9a-f]{24}")
_UPLOADS = "uploads"


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


def file_id_of(text: str) -> str:
    """Return the id of a file that is made of something else: the same one, however often it is made."""
    return f"file-{blake2b(text.encode(), digest_size=12).hexdigest()}"


def is_file_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


class FileStore:
    """Methods raise OSError where the disk does. Usable from several threads and processes at once.

    An id that is not one of ours is nobody's file: none leads out of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uploads = folder / _UPLOADS

    def new_upload(self) -> Path:
        """Return a path of a new, empty file (0600) to write an upload to."""
        make_private(self._uploads)
        path = self._uploads / secrets.token_hex(12)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return path

    def keep(self, upload: Path, file_id: str) -> int:
        """Make a finished upload the content of `file_id`, and return its size. Survives a power failure from here on.

        What is there under this id already stays, and the upload is dropped.
        """
        target = self._path(file_id)
        with upload.open("rb") as file:
            os.fsync(file.fileno())
        _name(upload, target)
        sync_folder(self._folder)
        return target.stat().st_size

    def give_up(self, file_id: str) -> None:
        """Have a content that nobody was told of swept away as an upload."""
        with contextlib.suppress(FileNotFoundError):
            self._path(file_id).rename(self.new_upload())

    def open(self, file_id: str) -> IO[bytes]:
        """Raises FileNotFoundError."""
        return self._path(file_id).open("rb")

    def remove(self, file_id: str) -> None:
        """Remove a content, if it is there. Whoever has it open reads on."""
        with contextlib.suppress(FileNotFoundError):
            self._path(file_id).unlink()

    def sweep_uploads(self, before: float) -> int:
        """Remove what was begun and last written to before that Unix time. Returns how many there were."""
        swept = 0
        with contextlib.suppress(FileNotFoundError):
            for path in self._uploads.iterdir():
                # It may be kept, or swept by another process, at this moment.
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()
                        swept += 1
        return swept

    def _path(self, file_id: str) -> Path:
        if not is_file_id(file_id):
            raise FileNotFoundError(file_id)
        return self._folder / file_id


def _name(upload: Path, target: Path) -> None:
    """Move `upload` to `target`, unless that is there: a rename would replace it."""
    try:
        target.hardlink_to(upload)
    except FileExistsError:
        pass
    except OSError:
        # A file system without links.
        if not target.exists():
            upload.rename(target)
            return
    upload.unlink()
