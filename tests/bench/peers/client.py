"""The load: `celerity bench` in a process of its own, and what it reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.peers.scenarios import Scenario
from tests.stack import REPOSITORY

_TIMEOUT_S = 300.0
_TIMES = ("ttft", "gap", "e2e")
_PERCENTILES = ("p50", "p95", "p99")


class LoadFailedError(Exception):
    """The load gave no result. The text is what it said."""


def load(url: str, scenario: Scenario, *, seconds: float, warmup_s: float, folder: Path) -> dict[str, Any]:
    """Return the report of one load. Raises LoadFailedError."""
    report = folder / "load.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "deploy", "bench", url, "--model", scenario.model]
    command += ["--stream" if scenario.stream else "--no-stream", "--tokens", str(scenario.tokens)]
    how = ["--rate", str(scenario.rate)] if scenario.rate else ["--concurrency", str(scenario.concurrency)]
    command += [*how, "--seconds", str(seconds), "--warmup", str(warmup_s)]
    command += ["--no-check", "--json", str(report), *(["--ignore-eos"] if scenario.ignore_eos else [])]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CELERITY_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=REPOSITORY, env=environ, check=False
        )
    except subprocess.TimeoutExpired:
        raise LoadFailedError(f"no end after {_TIMEOUT_S:g} s") from None
    found: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
    if not found.get("answered_ever"):
        raise LoadFailedError(str(found.get("errors") or done.stderr or done.stdout)[-1000:])
    return found


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
