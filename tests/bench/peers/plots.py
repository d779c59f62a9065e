"""The plots of a comparison: `python plots.py RESULTS.json FOLDER`, by the Python that has matplotlib."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

Rounds = list[dict[str, Any]]

_COLOURS = {
    "celerity": "#c2410c",
    "celerity-2": "#fb923c",
    "sglang-router": "#1d4ed8",
    "vllm-router": "#60a5fa",
    "litellm": "#6b7280",
    "litellm-2": "#9ca3af",
    "stub": "#111827",
    "vllm": "#1d4ed8",
    "ray-serve": "#047857",
}
_NAMES = {
    "celerity": "Celerity",
    "celerity-2": "Celerity, two gateways",
    "stub": "stub engine, bare",
    "litellm": "LiteLLM",
    "litellm-2": "LiteLLM, two processes",
    "vllm": "vLLM's server, bare",
    "ray-serve": "Ray Serve",
}
_PARTS = ("#c2410c", "#1d4ed8", "#047857", "#a16207", "#7c3aed", "#6b7280", "#be185d", "#0e7490")
_THROUGHPUT = (
    ("stub", "paced-64", "64 streams, 64 tokens at 2 ms"),
    ("stub", "unpaced-64", "64 streams, 64 tokens unpaced"),
    ("stub", "short-64", "one-token answers, 64 at a time"),
    ("vllm", "vllm-stream-64", "demo model, 64 streams"),
    ("vllm", "vllm-short-64", "demo model, one-token answers"),
)
_CPU = (("stub", "unpaced-64", "64 tokens unpaced, streamed"), ("stub", "short-64", "one-token answers"))
_STEPS = (1, 8, 32, 64, 256)


def main() -> None:
    results, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    rounds: Rounds = results["rounds"]
    about = results["about"]
    note = f"{about['date']}, {about['cores']} cores shared by client, contender and engine"
    note += f"; medians of {about['rounds']} rounds"
    plt.switch_backend("agg")
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "savefig.dpi": 130,
        }
    )
    folder.mkdir(exist_ok=True)
    _throughput(rounds, note, folder / "bench-throughput.png")
    _first_token(rounds, note, folder / "bench-ttft.png")
    _cpu(rounds, note, folder / "bench-cpu.png")


def _throughput(rounds: Rounds, note: str, path: Path) -> None:
    panels = [panel for panel in _THROUGHPUT if _contenders(rounds, panel[0], panel[1])]
    figure, all_axes = plt.subplots(len(panels), 1, figsize=(7.5, 1.9 * len(panels)), squeeze=False)
    for axes, (block, scenario, title) in zip(all_axes[:, 0], panels, strict=True):
        names = _contenders(rounds, block, scenario)[::-1]
        seen = [_values(rounds, block, scenario, name, "answers_per_s") for name in names]
        middles = [statistics.median(values) for values in seen]
        errors = [
            [middle - min(values) for middle, values in zip(middles, seen, strict=True)],
            [max(values) - middle for middle, values in zip(middles, seen, strict=True)],
        ]
        colours = [_COLOURS.get(name, "#999999") for name in names]
        axes.barh(_labels(names), middles, xerr=errors, color=colours, height=0.7, error_kw={"lw": 0.8})
        for row, (middle, values) in enumerate(zip(middles, seen, strict=True)):
            axes.text(max(values), row, f"  {middle:,.0f}", va="center")
        axes.set_title(title, loc="left")
        axes.set_xlim(0, 1.12 * max(map(max, seen)))
    all_axes[-1, 0].set_xlabel("answers a second (more is better); the line is from the lowest to the highest round")
    _finish(figure, "Answers a second, each contender on the same machine in turn", note, path)


def _first_token(rounds: Rounds, note: str, path: Path) -> None:
    figure, all_axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True)
    for axes, (metric, title) in zip(
        all_axes, (("ttft_p50_ms", "median"), ("ttft_p99_ms", "99th percentile")), strict=True
    ):
        for name, colour in _COLOURS.items():
            points = [(step, _middle(rounds, "stub", f"paced-{step}", name, metric)) for step in _STEPS]
            there = [(step, value) for step, value in points if value is not None]
            if there:
                ours = name.startswith("celerity")
                axes.plot(
                    *zip(*there, strict=True),
                    marker="o",
                    ms=4,
                    lw=2.2 if ours else 1.4,
                    color=colour,
                    label=_NAMES.get(name, name),
                )
        axes.set_title(title, loc="left")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(_STEPS, [str(step) for step in _STEPS])
        axes.set_xlabel("streams at a time")
        axes.grid(visible=True, which="major", axis="y", color="#e5e7eb")
        axes.yaxis.set_major_formatter("{x:g}")
    all_axes[0].set_ylabel("milliseconds to the first token (less is better)")
    all_axes[0].legend(frameon=False)
    _finish(figure, "Time to the first token of streams at 2 ms a token", note, path)


def _cpu(rounds: Rounds, note: str, path: Path) -> None:
    panels = [panel for panel in _CPU if _contenders(rounds, panel[0], panel[1])]
    figure, all_axes = plt.subplots(len(panels), 1, figsize=(7.5, 2.6 * len(panels)), squeeze=False)
    for axes, (block, scenario, title) in zip(all_axes[:, 0], panels, strict=True):
        names = [name for name in _contenders(rounds, block, scenario) if "litellm" not in name][::-1]
        shares = {name: _shares(rounds, block, scenario, name) for name in names}
        parts = sorted({part for share in shares.values() for part in share})
        left = [0.0] * len(names)
        for colour, part in zip(_PARTS, parts, strict=False):
            widths = [shares[name].get(part, 0.0) for name in names]
            axes.barh(_labels(names), widths, left=left, height=0.7, color=colour, label=part)
            left = [before + width for before, width in zip(left, widths, strict=True)]
        for row, whole in enumerate(left):
            axes.text(whole, row, f"  {whole:.2f}", va="center")
        axes.set_title(title + _litellm(rounds, block, scenario), loc="left")
        axes.set_xlim(0, 1.12 * max(left))
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    all_axes[-1, 0].set_xlabel("CPU milliseconds an answer, engine included (less is better)")
    _finish(figure, "CPU time of an answer, by what the processes are for", note, path)


def _litellm(rounds: Rounds, block: str, scenario: str) -> str:
    """Say in words what would make all other bars invisible."""
    middle = _middle(rounds, block, scenario, "litellm", "cpu_ms_per_answer")
    return f" (LiteLLM, not drawn: {middle:.1f})" if middle is not None else ""


def _contenders(rounds: Rounds, block: str, scenario: str) -> list[str]:
    there = {it["contender"] for it in rounds if it["case"] == {"block": block, "scenario": scenario}}
    return [name for name in _COLOURS if name in there]


def _of(rounds: Rounds, block: str, scenario: str, contender: str) -> Rounds:
    case = {"block": block, "scenario": scenario}
    return [it for it in rounds if it["case"] == case and it["contender"] == contender]


def _values(rounds: Rounds, block: str, scenario: str, contender: str, metric: str) -> list[float]:
    found = [it["values"] for it in _of(rounds, block, scenario, contender)]
    return [values[metric] for values in found if metric in values]


def _middle(rounds: Rounds, block: str, scenario: str, contender: str, metric: str) -> float | None:
    values = _values(rounds, block, scenario, contender, metric)
    return statistics.median(values) if values else None


def _shares(rounds: Rounds, block: str, scenario: str, contender: str) -> dict[str, float]:
    """Return the milliseconds of an answer by what the processes are for; the peers' own have one name."""
    found = [it["cpu_ms_per_answer"] for it in _of(rounds, block, scenario, contender)]
    names = {name for shares in found for name in shares}
    middles = {name: statistics.median(shares.get(name, 0.0) for shares in found) for name in names}
    return {
        {contender: "router"}.get(name, name) if name != "stub" else "stub engine": middle
        for name, middle in middles.items()
    }


def _labels(names: Iterable[str]) -> list[str]:
    return [_NAMES.get(name, name) for name in names]


def _finish(figure: Any, title: str, note: str, path: Path) -> None:
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=12)
    figure.text(0.01, 0.005, note, fontsize=7, color="#4b5563")
    figure.tight_layout(rect=(0, 0.02, 1, 0.98))
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
