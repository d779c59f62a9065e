"""The memory limit of the control groups round this process, as both versions of the kernel's interface tell it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class CgroupLimit:
    """Bytes. `free` counts what the kernel can drop at once, as files read long ago, as free."""

    total: int
    free: int


def memory_limit(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> CgroupLimit | None:
    """Return the tightest memory limit that this process is under, or None when there is none."""
    limits = [limit for folder in _cgroup_folders(root, membership) if (limit := _limit(folder)) is not None]
    return min(limits, key=lambda limit: limit.free, default=None)


def _cgroup_folders(root: Path, membership: Path) -> list[Path]:
    """The control groups around this process, innermost first; version 2, else version 1's memory tree."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            top = root if controllers == "" else root / "memory"
            # Inside a container the path may be the host's and not exist here; the top one always does.
            inner = top / path.strip("/")
            return [inner, *(parent for parent in inner.parents if parent == top or top in parent.parents)]
    return []


def _limit(folder: Path) -> CgroupLimit | None:
    for limit_file, usage_file, droppable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        total = _number(folder / limit_file)
        usage = _number(folder / usage_file)
        # Version 1 says "no limit" with a number beyond any machine's memory.
        if total is not None and usage is not None and total < 1 << 60:
            return CgroupLimit(total, max(0, total - usage + _stat(folder / "memory.stat", droppable)))
    return None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max" means no limit
        return None


def _stat(file: Path, key: str) -> int:
    try:
        found = [line.split()[1] for line in file.read_text().splitlines() if line.split()[:1] == [key]]
    except OSError:
        return 0
    return int(found[0]) if found else 0
