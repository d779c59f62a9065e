"""The goals of a comparison, and what a run says of each."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.peers.results import Case, Comparing, Results, Spread, difference, ratio

ROUTERS = ("sglang-router", "vllm-router")
BEST_ROUTER = "the best Rust router"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One row. `naive` is what a first rough version of the path had, measured in the same way."""

    what: str
    case: Case
    metric: str
    against: str
    how: Comparing = ratio
    at_least: float | None = None
    at_most: float | None = None
    naive: str = ""

    def bound(self) -> str:
        limit = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        return limit + self.unit

    @property
    def unit(self) -> str:
        return " ×" if self.how is ratio else " ms more"

    def met_by(self, seen: float) -> bool:
        return seen >= self.at_least if self.at_least is not None else seen <= (self.at_most or 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`against` is who it came to be; `seen` is None where one of the two has no figures."""

    goal: Goal
    against: str
    seen: Spread | None

    @property
    def met(self) -> bool:
        return self.seen is not None and self.goal.met_by(self.seen.median)


def judged(goal: Goal, results: Results, ours: str = "celerity") -> Verdict:
    against = goal.against if goal.against != BEST_ROUTER else best_router(goal, results)
    seen = results.compared(goal.case, ours, against, goal.metric, how=goal.how)
    return Verdict(goal, against, seen)


def best_router(goal: Goal, results: Results) -> str:
    """Return the router with the better median in this run, for what the goal looks at."""
    found = {}
    for name in ROUTERS:
        if seen := results.seen(goal.case, name, goal.metric):
            found[name] = seen.median
    if not found:
        return BEST_ROUTER
    return (max if goal.at_least is not None else min)(found, key=lambda name: found[name])


_PER_S, _TTFT, _TTFT_P99 = "answers_per_s", "ttft_p50_ms", "ttft_p99_ms"

GOALS = (
    Goal(
        what="streamed answers/s at 2 ms a token, 64 at a time",
        case=Case("stub", "paced-64"),
        metric=_PER_S,
        against=BEST_ROUTER,
        at_least=1.0,
        naive="1.05 ×",
    ),
    Goal(
        what="the same, 256 at a time",
        case=Case("stub", "paced-256"),
        metric=_PER_S,
        against=BEST_ROUTER,
        at_least=1.0,
    ),
    Goal(
        what="streamed answers/s unpaced, 64 at a time",
        case=Case("stub", "unpaced-64"),
        metric=_PER_S,
        against=BEST_ROUTER,
        at_least=1.0,
        naive="0.6 ×",
    ),
    Goal(
        what="the same, 256 at a time",
        case=Case("stub", "unpaced-256"),
        metric=_PER_S,
        against=BEST_ROUTER,
        at_least=1.0,
    ),
    Goal(
        what="one-token answers/s, 64 at a time",
        case=Case("stub", "short-64"),
        metric=_PER_S,
        against=BEST_ROUTER,
        at_least=0.5,
        naive="0.29 ×",
    ),
    Goal(
        what="streamed answers/s unpaced, 64 at a time",
        case=Case("stub", "unpaced-64"),
        metric=_PER_S,
        against="litellm",
        at_least=40,
        naive="25 ×",
    ),
    Goal(
        what="one-token answers/s, 64 at a time",
        case=Case("stub", "short-64"),
        metric=_PER_S,
        against="litellm",
        at_least=12,
        naive="6 ×",
    ),
    Goal(
        what="time to first token at 2 ms a token, median, 1 at a time",
        case=Case("stub", "paced-1"),
        metric=_TTFT,
        against=BEST_ROUTER,
        how=difference,
        at_most=1.5,
        naive="2 ms more",
    ),
    Goal(
        what="the same, 32 at a time",
        case=Case("stub", "paced-32"),
        metric=_TTFT,
        against=BEST_ROUTER,
        how=difference,
        at_most=4,
        naive="6 ms more",
    ),
    Goal(
        what="the same, 99th percentile",
        case=Case("stub", "paced-32"),
        metric=_TTFT_P99,
        against=BEST_ROUTER,
        at_most=1.2,
        naive="1.6 ×",
    ),
    Goal(
        what="the demo model, streamed tokens/s, 64 at a time",
        case=Case("vllm", "vllm-stream-64"),
        metric=_PER_S,
        against="vllm",
        at_least=1.0,
        naive="0.7 ×",
    ),
    Goal(
        what="the demo model, one-token answers/s, 64 at a time",
        case=Case("vllm", "vllm-short-64"),
        metric=_PER_S,
        against="vllm",
        at_least=0.85,
        naive="0.35 ×",
    ),
    Goal(
        what="the demo model, time to first token, median, 1 at a time",
        case=Case("vllm", "vllm-stream-1"),
        metric=_TTFT,
        against="vllm",
        how=difference,
        at_most=4,
    ),
    Goal(
        what="the same, 32 at a time",
        case=Case("vllm", "vllm-stream-32"),
        metric=_TTFT,
        against="vllm",
        at_most=1.1,
    ),
    Goal(
        what="the demo model, gap between tokens, 99th percentile, 64 at a time",
        case=Case("vllm", "vllm-stream-64"),
        metric="gap_p99_ms",
        against="vllm",
        at_most=1.2,
    ),
)
