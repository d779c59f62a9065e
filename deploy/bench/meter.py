"""What is measured of a load, and what is said of it in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from deploy.bench.histogram import Histogram
from deploy.bench.plan import Plan

_PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0}


@dataclass(slots=True)
class Meter:
    """Counts what comes between `open` and `close`, and times the requests that began between them."""

    measuring: bool = False
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """What this process has spent in that time."""
    bytes: int = 0
    frames: int = 0
    """Of streams, with content."""
    answered: int = 0
    """Answers that ended well, whenever they had begun."""
    answered_ever: int = 0
    """The same, with what came before `open` and after `close`: what the server has spent, it has spent on these."""
    ttft: Histogram = field(default_factory=Histogram)
    gaps: Histogram = field(default_factory=Histogram)
    e2e: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    told_frames: int = 0
    """Frames of the answers whose servers have said how many tokens they had."""
    told_tokens: int = 0
    _wall_at: float = 0.0
    _cpu_at: float = 0.0

    def open(self, now: float, cpu_s: float) -> None:
        """Begin, with what two steady clocks say: that of the wall, and that of what this process spends."""
        self.measuring = True
        self._wall_at, self._cpu_at = now, cpu_s

    def look(self, now: float, cpu_s: float) -> None:
        """Say how long it has measured."""
        if self.measuring:
            self.wall_s, self.cpu_s = now - self._wall_at, cpu_s - self._cpu_at

    def close(self, now: float, cpu_s: float) -> None:
        self.look(now, cpu_s)
        self.measuring = False

    def came(self, size: int, frames: int) -> None:
        if self.measuring:
            self.bytes += size
            self.frames += frames

    def ended(self, took_s: float, frames: int, tokens: int | None, *, timed: bool) -> None:
        """Count an answer that is complete and right. `tokens` is what its server says, if it does."""
        self.answered_ever += 1
        if self.measuring:
            self.answered += 1
            if tokens is not None:
                self.told_frames += frames
                self.told_tokens += tokens
        if timed:
            self.e2e.add(took_s)

    def tokens_per_s(self) -> float:
        """Return how fast tokens came; a frame counts as many as the server said there are in one on average."""
        if not self.wall_s:
            return 0.0
        if self.told_frames:
            return self.frames * self.told_tokens / self.told_frames / self.wall_s
        return (self.frames or self.told_tokens) / self.wall_s

    def requests_per_s(self) -> float:
        return self.answered / self.wall_s if self.wall_s else 0.0

    @property
    def client_busy(self) -> float:
        """How much of a core this process has taken."""
        return self.cpu_s / self.wall_s if self.wall_s else 0.0


def results(plan: Plan, url: str, meter: Meter) -> dict[str, Any]:
    """Return what `--json` writes; what a plan or a run does not have is null."""
    return {
        "model": ", ".join(plan.models),
        "url": url,
        "stream": plan.stream,
        "tokens": plan.tokens,
        "concurrency": plan.concurrency,
        "rate": plan.rate,
        "requests": meter.e2e.count,
        "answered_ever": meter.answered_ever,
        "errors": dict(meter.errors),
        "wall_s": round(meter.wall_s, 4),
        "client_cpu_s": round(meter.cpu_s, 4),
        "client_busy": round(meter.client_busy, 4),
        "requests_per_s": round(meter.requests_per_s(), 2),
        "tokens_per_s": round(meter.tokens_per_s(), 2),
        "ttft_ms": _times(meter.ttft),
        "gap_ms": _times(meter.gaps),
        "e2e_ms": _times(meter.e2e),
        "bytes": meter.bytes,
        "longest_gap_ms": _ms(meter.gaps.longest) if meter.gaps.count else None,
    }


def _times(histogram: Histogram) -> dict[str, float] | None:
    if not histogram.count:
        return None
    times = {name: _ms(histogram.percentile(percent)) for name, percent in _PERCENTILES.items()}
    return times | {"mean": _ms(histogram.mean())}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
