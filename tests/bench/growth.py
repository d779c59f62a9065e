"""What a request costs as work grows: more at once, more models, more workers.

Cost is the CPU time of all processes of the system by the number of answers, taken from
the kernel; the client's own is not in it. Each kind of growth has a system of its own.
Workers that stand by take time too, and it is in there: it is divided by the answers as
the rest is. On top of what the levels cost, `serving` says what is left without that.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.load import cpu_s, families, load
from tests.stack import GatewayProcess, Stack, stack

CONCURRENCIES = (1, 8, 32, 64, 256)
MODELS = (1, 4, 16, 64)
WORKERS = (1, 4, 16)
# What is held while models and workers grow.
CONCURRENCY = 64
_IDLE_S = 5.0
_ALONE = ", only one asked"


@dataclass(frozen=True, slots=True)
class Kind:
    """What is asked."""

    name: str
    model: str
    tokens: int
    stream: bool


KINDS = (
    Kind("64 tokens, streamed at 2 ms each", "paced", 64, stream=True),
    Kind("64 tokens, streamed, unpaced", "instant", 64, stream=True),
    Kind("one token, whole", "instant", 1, stream=False),
)


@dataclass(slots=True)
class Level:
    """What was measured at one size, a round each. `parts` by which processes spent it."""

    ms: list[float] = field(default_factory=list)
    serving_ms: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)


@dataclass(slots=True)
class Scene:
    """A system, and what has been measured of it, by what was asked and at which size."""

    running: Stack
    gateway: GatewayProcess
    seconds: float
    levels: dict[str, dict[int, Level]] = field(default_factory=dict)

    def round(self, kind: str, size: int, models: Iterable[str], **options: Any) -> None:
        idle = _spent(self.running, lambda: time.sleep(_IDLE_S))
        figures: dict[str, Any] = {}
        began = time.perf_counter()
        spent = _spent(
            self.running, lambda: figures.update(load(self.gateway, *models, seconds=self.seconds, **options))
        )
        took = time.perf_counter() - began
        answers = figures["requests"]
        level = self.levels.setdefault(kind, {}).setdefault(size, Level())
        level.ms.append(1000 * sum(spent.values()) / answers)
        level.serving_ms.append(1000 * (sum(spent.values()) - sum(idle.values()) * took / _IDLE_S) / answers)
        level.per_s.append(figures["requests_per_s"])
        for name, cpu in spent.items():
            level.parts.setdefault(name, []).append(1000 * cpu / answers)

    def results(self, what: str) -> dict[str, Any]:
        return {
            f"{what}: {kind}, {size}: {name}": value
            for kind, levels in self.levels.items()
            for size, level in levels.items()
            for name, value in _said(level, self._first(kind)).items()
        }

    def _first(self, kind: str) -> Level:
        """Return what the others are a ratio to."""
        levels = self.levels[kind.removesuffix(_ALONE)]
        return levels[min(levels)]


def growth(rounds: int, seconds: float, most: int) -> dict[str, Any]:
    """Return medians over the rounds, and each as a ratio to the smallest size; none is above `most`."""
    return (
        _concurrency(rounds, seconds, _up_to(CONCURRENCIES, most))
        | _models(rounds, seconds, _up_to(MODELS, most))
        | _workers(rounds, seconds, _up_to(WORKERS, most))
    )


def _concurrency(rounds: int, seconds: float, sizes: tuple[int, ...]) -> dict[str, Any]:
    """All sizes take turns on one system, with one worker a model."""
    with ExitStack() as open_:
        scene = _scene(open_, ["instant", "paced"], seconds)
        for model in ("instant", "paced"):
            scene.running.worker(model)
            load(scene.gateway, model, tokens=8, concurrency=max(sizes), seconds=1.0)
        for turn in range(rounds):
            for kind in KINDS:
                for size in sizes[:: 1 if turn % 2 == 0 else -1]:
                    scene.round(kind.name, size, [kind.model], concurrency=size, tokens=kind.tokens, stream=kind.stream)
        return scene.results("at once")


def _models(rounds: int, seconds: float, sizes: tuple[int, ...]) -> dict[str, Any]:
    """A worker a model, all asked in turn; the system grows from size to size, and then one is asked alone."""
    with ExitStack() as open_:
        names = [f"instant-{number}" for number in range(max(sizes))]
        scene = _scene(open_, names, seconds)
        for size in sizes:
            _start(scene.running, names[len(scene.running.workers) : size])
            load(scene.gateway, *names[:size], tokens=8, concurrency=CONCURRENCY, seconds=1.0)
            for _ in range(rounds):
                for kind in KINDS[1:]:
                    options = {"concurrency": CONCURRENCY, "tokens": kind.tokens, "stream": kind.stream}
                    scene.round(kind.name, size, names[:size], **options)
                    if size == max(sizes):
                        scene.round(kind.name + _ALONE, size, names[:1], **options)
        return scene.results("models")


def _workers(rounds: int, seconds: float, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Workers of one model, which take from one queue; the system grows from size to size."""
    with ExitStack() as open_:
        scene = _scene(open_, ["instant"], seconds)
        for size in sizes:
            _start(scene.running, ["instant"] * (size - len(scene.running.workers)))
            load(scene.gateway, "instant", tokens=8, concurrency=CONCURRENCY, seconds=1.0)
            for _ in range(rounds):
                for kind in KINDS[1:]:
                    scene.round(
                        kind.name,
                        size,
                        ["instant"],
                        concurrency=CONCURRENCY,
                        tokens=kind.tokens,
                        stream=kind.stream,
                    )
        return scene.results("workers of a model")


def _scene(open_: ExitStack, models: list[str], seconds: float) -> Scene:
    folder = open_.enter_context(tempfile.TemporaryDirectory())
    entries = "".join(f"  {it}: {{engine: sim, sim: {_sim(it)}}}\n" for it in models)
    running = open_.enter_context(stack(Path(folder), f"models:\n{entries}"))
    return Scene(running, running.gateway(), seconds)


def _sim(model: str) -> str:
    return f"{{seats: {max(CONCURRENCIES)}, ttft_ms: 0, itl_ms: {2 if model == 'paced' else 0}}}"


def _start(running: Stack, models: list[str]) -> None:
    """Start a worker for each, one after another: many at once would take each other's time until they are given up."""
    for model in models:
        running.worker(model)


def _spent(running: Stack, meanwhile: Callable[[], object]) -> dict[str, float]:
    """Return the CPU seconds that processes spend meanwhile, by what they are."""
    before = {name: sum(map(cpu_s, processes)) for name, processes in families(running).items()}
    meanwhile()
    return {name: sum(map(cpu_s, processes)) - before[name] for name, processes in families(running).items()}


def _said(level: Level, first: Level) -> dict[str, float]:
    of_first = statistics.median(first.ms), statistics.median(first.serving_ms)
    median, serving = statistics.median(level.ms), statistics.median(level.serving_ms)
    return {
        "CPU ms an answer": round(median, 3),
        "to the first": round(median / of_first[0], 3),
        "serving, to the first": round(serving / of_first[1], 3),
        "spread of the rounds, %": round(100 * (max(level.ms) - min(level.ms)) / median, 1),
        "answers/s": round(statistics.median(level.per_s), 1),
        **{f"CPU ms of {name}": round(statistics.median(values), 3) for name, values in level.parts.items()},
    }


def _up_to(sizes: tuple[int, ...], most: int) -> tuple[int, ...]:
    return tuple(size for size in sizes if size <= most)
