"""What is compared: an address, the processes behind it, and what they have spent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psutil

from tasks.connections import command_client

Processes = dict[str, list[psutil.Process]]
"""By what they are for."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One system under load. `redis` is the URL of its Redis, if it has one."""

    name: str
    url: str
    processes: Callable[[], Processes]
    redis: str | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a system had used up at a moment: by process, CPU seconds and MiB of memory; by Redis, bytes."""

    cpu_s: dict[tuple[str, int], float]
    rss_mib: dict[str, float]
    redis_bytes: int

    def since(self, before: Spent) -> dict[str, float]:
        """Return the CPU seconds since then by what the processes are for; one that has ended meanwhile is left out."""
        found: dict[str, float] = {}
        for (label, pid), seconds in self.cpu_s.items():
            found[label] = found.get(label, 0.0) + seconds - before.cpu_s.get((label, pid), 0.0)
        return found


def spent(contender: Contender) -> Spent:
    """Look at every process of it now."""
    cpu_s: dict[tuple[str, int], float] = {}
    rss: dict[str, float] = {}
    for label, processes in contender.processes().items():
        for process in processes:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu_s[label, process.pid] = float(times.user + times.system)
                rss[label] = rss.get(label, 0.0) + process.memory_info().rss / 2**20
    return Spent(cpu_s, rss, _redis_bytes(contender.redis) if contender.redis else 0)


def sorted_by(label: Callable[[str], str], processes: Iterable[psutil.Process]) -> Processes:
    """Sort processes by what `label` says of their command line."""
    found: Processes = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found.setdefault(label(" ".join(process.cmdline()) or process.name()), []).append(process)
    return found


def _redis_bytes(url: str) -> int:
    with contextlib.closing(command_client(url)) as client:
        stats: dict[str, Any] = client.info("stats")
        return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])
