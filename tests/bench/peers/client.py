"""The load of a scenario, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.bench.load import bench
from tests.bench.peers.scenarios import Scenario

_TIMES = ("ttft", "gap", "e2e")
_PERCENTILES = ("p50", "p95", "p99")


def load(url: str, scenario: Scenario, *, seconds: float, warmup_s: float) -> dict[str, Any]:
    """Return the report of one load. Raises LoadFailedError."""
    return bench(
        url,
        scenario.model,
        tokens=scenario.tokens,
        stream=scenario.stream,
        rate=scenario.rate,
        concurrency=None if scenario.rate else scenario.concurrency,
        seconds=seconds,
        warmup=warmup_s,
        ignore_eos=scenario.ignore_eos,
    )


def values(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a report by name; what a load does not have (gaps of a whole answer) is left out."""
    found = {name: float(report[name]) for name in ("requests", "requests_per_s", "tokens_per_s", "client_busy")}
    # By tokens where they stream: slow answers that began together end together, and a window has all of them or none.
    by_token = report["tokens_per_s"] / report["tokens"]
    found["answers_per_s"] = by_token if report["stream"] else found["requests_per_s"]
    found["errors"] = float(sum(report["errors"].values()))
    for name in _TIMES:
        times = report.get(f"{name}_ms") or {}
        found |= {f"{name}_{percentile}_ms": times[percentile] for percentile in _PERCENTILES if percentile in times}
    return found


def answered(report: Mapping[str, Any]) -> float:
    """Return how many answers were given in all, those of the warm-up and after the end of the window included."""
    return float(report["answered_ever"])
