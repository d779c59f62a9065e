"""Follows the children's log files for `celerity up --verbose`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class LogEcho:
    """Yields what was written to the logs of a folder since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {log: log.stat().st_size for log in folder.glob("*.log")}

    def new_lines(self) -> Iterator[tuple[str, str]]:
        """Yield (log, line), whole lines only."""
        for log in sorted(self._folder.glob("*.log")):
            start = self._read.get(log, 0)
            if log.stat().st_size < start:  # put aside, and begun anew
                start = 0
            with log.open("rb") as file:
                file.seek(start)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read[log] = start + len(whole) + len(newline)
            for line in whole.decode("utf-8", "replace").splitlines():
                yield log.stem, line
