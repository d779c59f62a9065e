"""Follows the children's log files for `celerity up --verbose`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class LogEcho:
    """Yields what was written to the logs of a folder, and of the folders in it, since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {log: log.stat().st_size for log in folder.rglob("*.log")}

    def new_lines(self) -> Iterator[tuple[str, str]]:
        """Yield (log, line), whole lines only."""
        for log in sorted(self._folder.rglob("*.log")):
            for line in self._new_of(log):
                yield log.stem, line

    def _new_of(self, log: Path) -> list[str]:
        start = self._read.get(log, 0)
        try:
            if log.stat().st_size < start:  # put aside, and begun anew
                start = 0
            with log.open("rb") as file:
                file.seek(start)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:  # only the latest of replicas are kept
            return []
        self._read[log] = start + len(whole) + len(newline)
        return whole.decode("utf-8", "replace").splitlines()
