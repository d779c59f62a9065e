"""How much memory a process and everything it started hold now."""

from __future__ import annotations

import psutil


def tree_mib(pid: int) -> int:
    """Return the resident memory of the process and its descendants, in MiB.

    Pages that several of them share are counted in each, so this is an upper bound.
    """
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return 0
    return total // (1024 * 1024)
