"""Processes as the kernel knows them, for tests that must leave none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

# In front of a command: what runs in the background of a shell is deaf to Ctrl-C, and so would be what it starts.
HEARS_CTRL_C = ("env", "--default-signal=INT")


def of_state_dir(folder: Path) -> list[psutil.Process]:
    """Return the processes that were told to work in this state folder, whoever started them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("CELERITY_STATE_DIR") == str(folder):
                found.append(process)
    return alive(found)


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
