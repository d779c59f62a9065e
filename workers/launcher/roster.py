"""The replicas that run as processes of this node, a file each, so that a launcher that starts again finds them.

A replica writes its own record before it becomes what it is (`guard_process`), so there
is no moment in which one runs and is not on record. The record is believed only as far as
the kernel confirms it: a process of that number, that began when the record says, and
that has the replica's id in its environment. Any other is somebody else's.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from workers.launcher import group
from workers.launcher.guard_process import start_ticks

VARIABLE = "CELERITY_REPLICA_ID"

# While a program takes another's place, the kernel shows no environment, or says that there is
# no such process. That takes microseconds, or as long as a disk does.
_EXECUTES_WITHIN_S = 1.0
_POLL_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A replica as it was started. Its process id is also the number of its process group and session."""

    replica: str
    model: str
    log: str
    memory_mib: int | None
    pid: int
    started_at: float
    """Unix seconds."""
    ticks: int | None
    """When the process began, in the kernel's own count, which no clock change moves; None: not told here."""


class Roster:
    """The records in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, replica: str) -> Path:
        return self._folder / f"{replica}.json"

    def all(self) -> list[Record]:
        """Return every record, oldest first."""
        found = [record for file in self._folder.glob("*.json") if (record := _read(file)) is not None]
        return sorted(found, key=lambda record: (record.started_at, record.replica))

    def remove(self, replica: str) -> None:
        self.path(replica).unlink(missing_ok=True)


def leader(record: Record) -> psutil.Process | None:
    """Return the replica's own process, None when it has ended."""
    with suppress(psutil.Error, OSError):
        process = psutil.Process(record.pid)
        if (
            process.status() != psutil.STATUS_ZOMBIE
            and start_ticks(record.pid) == record.ticks
            and _is(process, record)
        ):
            return process
    return None


def family(record: Record) -> list[psutil.Process]:
    """Return all that still runs of the replica: its process, and what it started.

    As long as any of them is left, nobody else can get the number of their group.
    """
    members = list(group.members(record.pid))
    return members if any(_is(process, record) for process in members) else []


def _is(process: psutil.Process, record: Record) -> bool:
    with suppress(psutil.Error, OSError):
        return os.getsid(process.pid) == record.pid and _environment(process).get(VARIABLE) == record.replica
    return False


def _environment(process: psutil.Process) -> dict[str, str]:
    """Return what the kernel shows of its environment. Raises psutil.Error, as when it has ended."""
    deadline = time.monotonic() + _EXECUTES_WITHIN_S
    while True:
        with suppress(psutil.NoSuchProcess):
            if shown := process.environ():
                return shown
        if process.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
            return {}
        time.sleep(_POLL_S)


def _read(file: Path) -> Record | None:
    with suppress(OSError, ValueError, TypeError):
        return Record(**json.loads(file.read_text("utf-8")))
    return None
