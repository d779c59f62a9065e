"""What it costs that nothing is lost: the product against the same without its guards, in one run.

Two whole systems stand side by side and are loaded in turn, so that a noisy machine is
noisy for both. Besides throughput, which has a client's share in it, the CPU time of
the systems' own processes is compared.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.load import cpu_s, family, load
from tests.stack import GatewayProcess, Stack, stack

MODELS = """
models:
  instant:
    engine: sim
"""
CONCURRENCY = 64


@dataclass
class Side:
    """One of the two systems, and what was measured of it."""

    running: Stack
    gateway: GatewayProcess
    per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def round(self, seconds: float, tokens: int) -> None:
        before = sum(map(cpu_s, family(self.running)))
        figures = load(self.gateway, "instant", tokens=tokens, concurrency=CONCURRENCY, seconds=seconds)
        self.per_s.append(figures["requests_per_s"])
        self.cpu_ms.append(1000 * (sum(map(cpu_s, family(self.running))) - before) / figures["requests"])


def guards(rounds: int, seconds: float) -> dict[str, Any]:
    """Return medians and the ratio guarded / unguarded, for long and for short answers."""
    results: dict[str, Any] = {}
    with ExitStack() as open_:
        sides = {name: _side(open_, guarded=name == "guarded") for name in ("guarded", "unguarded")}
        for what, tokens in (("64 tokens", 64), ("one token", 1)):
            for side in sides.values():
                side.per_s.clear()
                side.cpu_ms.clear()
                side.round(1.0, tokens)
                side.per_s.clear()
                side.cpu_ms.clear()
            for turn in range(rounds):
                for side in list(sides.values())[:: 1 if turn % 2 else -1]:
                    side.round(seconds, tokens)
            for unit, of in (("answers/s", "per_s"), ("CPU ms an answer", "cpu_ms")):
                medians = {name: statistics.median(getattr(side, of)) for name, side in sides.items()}
                results |= {f"{unit}, {what}: {name}": round(value, 2) for name, value in medians.items()}
                pairs = zip(*(getattr(side, of) for side in sides.values()), strict=True)
                ratio = statistics.median(guarded / unguarded for guarded, unguarded in pairs)
                results[f"{unit}, {what}: guarded / unguarded"] = round(ratio, 3)
    return results


def _side(open_: ExitStack, *, guarded: bool) -> Side:
    folder = open_.enter_context(tempfile.TemporaryDirectory())
    running = open_.enter_context(stack(Path(folder), MODELS))
    if guarded:
        running.worker("instant")
        return Side(running, running.gateway())
    running.worker("instant", app="tests.bench.unguarded")
    return Side(running, running.gateway(Path(__file__).parent / "unguarded_gunicorn.py"))
