"""The results as a page for people, docs/benchmarks.md, with the goals first."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bench.peers.environments import PLOTS
from tests.bench.peers.goals import GOALS, Verdict, judged
from tests.bench.peers.results import Case, Results, Spread
from tests.bench.peers.scenarios import BLOCKS, Scenario

_OURS, _OURS_TWICE = "celerity", "celerity-2"
_PLOTS = (
    ("bench-throughput.png", "Answers a second by contender"),
    ("bench-ttft.png", "Time to first token over concurrency"),
    ("bench-cpu.png", "CPU time of an answer by process"),
)
_NAMES = {
    "stub": "stub engine, bare",
    "litellm": "stub behind LiteLLM",
    "litellm-2": "stub behind LiteLLM, two processes",
    "sglang-router": "stub behind sglang-router",
    "vllm-router": "stub behind vllm-router",
    _OURS: "Celerity",
    _OURS_TWICE: "Celerity, two gateway processes",
    "vllm": "vLLM's server, bare",
    "ray-serve": "Ray Serve",
}
_BLOCK_TITLES = {
    "stub": "A stub engine, and what stands in front of it",
    "vllm": "The demo model: vLLM's own server, and Celerity",
    "ray": "Ray Serve",
}


def keep(results: Results, docs: Path, envs: Path) -> None:
    """Write page, results and plots."""
    results.write(docs / "benchmarks.json")
    (docs / "benchmarks.md").write_text(page(results))
    drawing = [PLOTS.program(envs), str(Path(__file__).parent / "plots.py")]
    subprocess.run([*drawing, str(docs / "benchmarks.json"), str(docs / "images")], check=True)


def page(results: Results) -> str:
    plots = "\n\n".join(f"![{title}](images/{name})" for name, title in _PLOTS)
    return (
        "# Benchmarks\n\n"
        'Written by `make bench ARGS="peers --write"`, not by hand; [PERFORMANCE.md](PERFORMANCE.md) says how to read '
        f"it, and [benchmarks.json](benchmarks.json) has every round.\n\n{_about(results)}\n\n"
        f"{plots}\n\n{markdown(results)}"
    )


def markdown(results: Results) -> str:
    """Return the tables: goals, what is missing, and every scenario."""
    parts = [_goals(results), _missing(results)]
    for block in BLOCKS:
        measured = {it.case.scenario for it in results.rounds if it.case.block == block.name}
        if measured:
            parts.append(f"## {_BLOCK_TITLES[block.name]}\n")
            parts += [_scenario(results, block.name, it) for it in block.scenarios if it.name in measured]
    return "\n".join(part for part in parts if part)


def _about(results: Results) -> str:
    about = results.about
    idle = ", ".join(f"{name} {share:.1%}" for name, share in results.idle.items() if share) or "nobody takes anything"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['date']}, {about['cores']} cores of {about['processor']}, shared by client, contender and engine; "
        f"Python {about['python']}; {about['rounds']} rounds of {about['seconds']:g} s a contender and scenario, in "
        f"turn; load of the machine before: {about['load_before']}. {versions}. Unasked, of a core: {idle}."
    )


def _goals(results: Results) -> str:
    verdicts = [judged(goal, results) for goal in GOALS]
    if not any(verdict.seen for verdict in verdicts):
        return ""
    rows = [_goal(verdict, judged(verdict.goal, results, _OURS_TWICE)) for verdict in verdicts if verdict.seen]
    head = ("Celerity", "against", "goal", "naive", "seen", "with two gateways", "met")
    return (
        f"## Goals\n\nThe median of the rounds' own ratios, with the lowest and the highest.\n\n{_table(head, rows)}\n"
    )


def _goal(verdict: Verdict, twice: Verdict) -> tuple[str, ...]:
    goal = verdict.goal
    seen, two = (_spread(it.seen) + goal.unit if it.seen else "" for it in (verdict, twice))
    return goal.what, verdict.against, goal.bound(), goal.naive, seen, two, "yes" if verdict.met else "**no**"


def _missing(results: Results) -> str:
    lines = [f"- {who}: {reason.strip().splitlines()[-1]}" for who, reason in results.failures.items()]
    return "## Not there\n\n" + "\n".join(lines) + "\n" if lines else ""


def _scenario(results: Results, block: str, scenario: Scenario) -> str:
    streamed = ("ttft ms: p50 / p95 / p99", "gap ms: p50 / p99") if scenario.stream else ()
    head = (
        "",
        "answers/s",
        "tokens/s",
        *streamed,
        "whole ms: p50 / p95 / p99",
        "CPU s per 1,000 answers",
        "per 1,000,000 tokens",
        "RSS MiB",
        "Redis KiB an answer",
        "client's core",
    )
    rows = [_row(results, block, scenario, name) for name in results.contenders(block)]
    return f"### {scenario.title[0].upper()}{scenario.title[1:]}\n\n{_table(head, [row for row in rows if row])}\n"


def _row(results: Results, block: str, scenario: Scenario, contender: str) -> tuple[str, ...] | None:
    case = Case(block, scenario.name)
    rounds = results.of(case, contender)
    if not rounds:
        return None

    def seen(metric: str) -> Spread | None:
        return results.seen(case, contender, metric)

    def middles(*metrics: str) -> str:
        return " / ".join(_number(it.median) if (it := seen(metric)) else "" for metric in metrics)

    cpu = seen("cpu_ms_per_answer")
    by_process = _medians([it.cpu_ms_per_answer for it in rounds])
    shares = ", ".join(f"{label} {_number(ms)}" for label, ms in by_process.items())
    redis = seen("redis_bytes_per_answer")
    times = (middles("ttft_p50_ms", "ttft_p95_ms", "ttft_p99_ms"), middles("gap_p50_ms", "gap_p99_ms"))
    errors = sum(it.values["errors"] for it in rounds)
    return (
        _NAMES.get(contender, contender) + (f" ({errors:.0f} errors)" if errors else ""),
        _spread(seen("answers_per_s")),
        middles("tokens_per_s"),
        *(times if scenario.stream else ()),
        middles("e2e_p50_ms", "e2e_p95_ms", "e2e_p99_ms"),
        f"{_number(cpu.median)} ({shares})" if cpu else "",
        _number(1000 * cpu.median / scenario.tokens) if cpu else "",
        middles("rss_mib"),
        _number(redis.median / 1024) if redis else "",
        f"{client.median:.0%}" if (client := seen("client_busy")) else "",
    )


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the middle of each name's values, the greatest first."""
    names = dict.fromkeys(name for values in rounds for name in values)
    middles = {name: statistics.median(it.get(name, 0.0) for it in rounds) for name in names}
    return dict(sorted(middles.items(), key=lambda item: -item[1]))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _spread(seen: Spread | None) -> str:
    return f"{_number(seen.median)} ({_number(seen.low)}–{_number(seen.high)})" if seen else ""


def _number(value: float) -> str:
    """Return three figures, or all of them before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
