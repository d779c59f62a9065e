"""Folders that only we read: prompts and answers lie in them."""

from __future__ import annotations

import os
from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder (0700), and those above it that are missing. One that is there stays as it is."""
    if folder.is_dir():
        return
    # `parents=True` would make those above it with the mode that everybody's folders have.
    make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Have what was made or renamed in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
