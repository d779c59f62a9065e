"""What `celerity up` tells of models: who became ready, whose load failed, and whether everything is up. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from workers.placement.facts import LoadFailures
from workers.registry import ModelSpec


@dataclass(frozen=True, slots=True)
class Sight:
    """What Redis says at one moment."""

    ready: Mapping[str, int] = field(default_factory=dict)
    """By model: replicas that take requests."""
    failures: Mapping[str, LoadFailures] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why the loader does not even try to load a pinned model."""


@dataclass(frozen=True, slots=True)
class News:
    model: str
    text: str
    bad: bool = False
    """Whether the end of its log explains it."""


class ModelNews:
    """Remembers what was told."""

    def __init__(self) -> None:
        self._up: set[str] = set()
        self._failures: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._refused: Mapping[str, str] = {}

    def of(self, sight: Sight, models: Mapping[str, ModelSpec], elapsed_s: float | None) -> Iterator[News]:
        """Yield what is new since the last call; with `elapsed_s` as long as what is being started is counted."""
        for model in sorted(self._up - sight.ready.keys()):
            self._up.discard(model)
            if model not in sight.failures:
                yield News(model, "unloaded")
        for model in sorted(sight.ready.keys() - self._up):
            self._up.add(model)
            spec = models.get(model)
            aliases = f", also called {', '.join(spec.aliases)}" if spec and spec.aliases else ""
            after = "" if elapsed_s is None else f" after {elapsed_s:.0f} s"
            yield News(model, f"ready{after}{aliases}")
        for model, failures in sorted(sight.failures.items()):
            if failures.count > self._failures.get(model, 0):
                yield News(model, f"failed: {failures.reason}", bad=True)
            if failures.given_up and model not in self._given_up:
                yield News(model, "given up, until it is loaded by hand (`celerity load`) or its entry changes")
        for model, reason in sorted(sight.refused.items()):
            if self._refused.get(model) != reason:
                yield News(model, f"not loaded: {reason}")
        self._refused = sight.refused
        self._given_up = {model for model, failures in sight.failures.items() if failures.given_up}
        self._failures = {model: failures.count for model, failures in sight.failures.items()}


def still_awaited(pinned: Sequence[ModelSpec], sight: Sight) -> list[str]:
    """Return the pinned models whose first load is under way: neither ready, nor failed once, nor refused."""
    settled = {*sight.failures, *sight.refused}
    return [spec.id for spec in pinned if not sight.ready.get(spec.id) and spec.id not in settled]


def all_failed(pinned: Sequence[ModelSpec], sight: Sight) -> bool:
    """Say whether there are pinned models, and every one was given up."""
    failures = [sight.failures.get(spec.id) for spec in pinned]
    return bool(failures) and all(it is not None and it.given_up for it in failures)


def any_ready(pinned: Sequence[ModelSpec], sight: Sight) -> bool:
    """Say whether one of the pinned models serves; also when there are none."""
    return not pinned or any(sight.ready.get(spec.id) for spec in pinned)
