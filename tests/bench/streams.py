"""Many streams open at once on one gateway process: what each takes of its memory, and whether one stands still."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.bench.load import cpu_s, load
from tests.stack import stack

ITL_MS = 500
HOLD_S = 60.0
# They come by chance within about so long: a rush would be measured rather than what is held.
_OPEN_S = 20.0
_LOOK_S = 1.0
# A worker that holds more is late with its tokens, and the gateway is what is looked at.
_SEATS = 500


class Watch(threading.Thread):
    """Looks at a gateway process every second."""

    def __init__(self, process: psutil.Process, port: int) -> None:
        super().__init__()
        self._process = process
        self._port = port
        self._end = threading.Event()
        self.looks: list[tuple[int, int]] = []
        """Open connections, and bytes of memory."""

    def run(self) -> None:
        while not self._end.wait(_LOOK_S):
            self.looks.append((self.connections(), self._process.memory_info().rss))

    def connections(self) -> int:
        return sum(
            it.status == psutil.CONN_ESTABLISHED and bool(it.laddr) and it.laddr.port == self._port
            for it in self._process.net_connections("tcp")
        )

    def stop(self) -> None:
        self._end.set()
        self.join()


def streams(count: int, seconds: float) -> dict[str, Any]:
    """Hold `count` streams open for so long, each with a token every 500 ms."""
    workers = -(-count // _SEATS)
    models = f"models:\n  slow: {{engine: sim, sim: {{seats: {_SEATS}, ttft_ms: 0, itl_ms: {ITL_MS}}}}}\n"
    with tempfile.TemporaryDirectory() as folder, stack(Path(folder), models) as running:
        for _ in range(workers):
            running.worker("slow")
        gateway = running.gateway(CELERITY_GATEWAY_CONNECTIONS=str(2 * count))
        (process,) = psutil.Process(gateway.process.pid).children()
        # The first answers have it import what it needs; they are not what a stream takes.
        load(gateway, "slow", tokens=1, concurrency=8, requests=64)
        before, cpu = process.memory_info().rss, cpu_s(process)
        watch = Watch(process, gateway.port)
        watch.start()
        began = time.perf_counter()
        # The first is still open so long after the last has come.
        tokens = round((seconds + 1.3 * _OPEN_S) * 1000 / ITL_MS)
        try:
            figures = load(gateway, "slow", tokens=tokens, rate=count / _OPEN_S, requests=count, timeout=600)
        finally:
            watch.stop()
        took = time.perf_counter() - began
        held = [rss for connections, rss in watch.looks if connections >= count]
        during = max(held, default=0)
        return {
            "streams": count,
            "workers": workers,
            "answered whole": figures["requests"],
            "tokens each": tokens,
            "s with all of them open": round(len(held) * _LOOK_S, 1),
            "gateway RSS MiB before": round(before / 2**20, 1),
            "gateway RSS MiB while all were open, median": _mib(held, statistics.median),
            "gateway RSS MiB while all were open, most": _mib(held, max),
            "gateway RSS KB a stream": round((during - before) / count / 1000, 1) if held else None,
            "gateway RSS MiB after": round(process.memory_info().rss / 2**20, 1),
            "gateway CPU, % of a core": round(100 * (cpu_s(process) - cpu) / took, 1),
            "client CPU, % of a core": round(100 * figures["client_busy"], 1),
            "gap between tokens, ms: p50": figures["gap_ms"]["p50"],
            "gap between tokens, ms: p99": figures["gap_ms"]["p99"],
            "longest stall beyond the pace, ms": round(figures["longest_gap_ms"] - ITL_MS, 1),
            "ttft ms: p50": figures["ttft_ms"]["p50"],
            "ttft ms: p99": figures["ttft_ms"]["p99"],
        }


def _mib(values: list[int], of: Callable[[list[int]], float]) -> float | None:
    return round(of(values) / 2**20, 1) if values else None
