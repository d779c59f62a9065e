"""JSON files that come with a model: read whole, but never more than is expected of them.

A model's folder is somebody else's: a file in it may be as large, as deep or as odd as
it likes. Whatever is not a JSON object of a plausible size is refused with a reason.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any


class JsonFileError(Exception):
    """The file cannot be used. The text names it and says why."""


def read_object(path: Path, *, max_bytes: int) -> dict[str, Any]:
    """Return the object in `path`. Raises JsonFileError, also when the file is missing."""
    return parse_object(read_bytes(path, max_bytes=max_bytes), path.name)


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    with open_plain(path) as file:
        raw: bytes = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise JsonFileError(f"{path.name} is larger than {max_bytes:,} bytes; that cannot be meant")
    return raw


def parse_object(raw: bytes, name: str) -> dict[str, Any]:
    try:
        # json.loads would guess UTF-16 and UTF-32.
        found = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise JsonFileError(f"{name} is not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise JsonFileError(f"{name} is not valid JSON") from None
    if not isinstance(found, dict):
        raise JsonFileError(f"{name} holds no JSON object")
    return found


def open_plain(path: Path) -> Any:
    """Open a plain file. Anything else, such as a pipe that nobody writes to, is refused and not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise JsonFileError(f"{path.name} cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise JsonFileError(f"{path.name} is not a plain file")
    return os.fdopen(descriptor, "rb")
