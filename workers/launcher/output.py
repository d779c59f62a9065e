"""Log files of processes that write to them as long as they run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

ROTATE_AT_BYTES = 5_000_000
_TAIL_BYTES = 16_384
_KEPT = 50


def tail(log: Path, lines: int) -> list[str]:
    """Return the last lines that are not empty; none when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


def rotate(log: Path) -> None:
    """Put a log that has grown too large aside; only the one before it is kept."""
    if log.exists() and log.stat().st_size > ROTATE_AT_BYTES:
        log.replace(_before(log))


def cut(log: Path) -> None:
    """Do the same to one that is being written to.

    Its writer appends, and so goes on at the new end. What it writes between the copy and
    the cut is lost.
    """
    with suppress(OSError):
        if log.stat().st_size > ROTATE_AT_BYTES:
            shutil.copyfile(log, _before(log))
            os.truncate(log, 0)


def prune(folder: Path, keep: Container[Path]) -> None:
    """Remove all but the latest logs, and those in `keep`: every replica has one of its own, and none comes back."""
    with suppress(OSError):
        logs = sorted(folder.glob("*.log"), key=lambda log: log.stat().st_mtime, reverse=True)
        for log in logs[_KEPT:]:
            if log not in keep:
                log.unlink(missing_ok=True)
                _before(log).unlink(missing_ok=True)


def _before(log: Path) -> Path:
    return log.with_suffix(".log.1")
