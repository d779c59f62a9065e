"""A hundred models of the usual sizes, and an hour of what people and programs ask of them: little, then bursts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from workers.devices import DeviceKind
from workers.placement.facts import Model, Need

CARD_MIB = 48_000
# MiB, devices, and how many of a hundred models are so large.
_SIZES = ((3_500, 1, 30), (8_000, 1, 30), (17_000, 1, 25), (32_000, 1, 10), (40_000, 2, 5))
_WEIGHTS_MIB_PER_S = 1_000.0
_ENGINE_START_S = 8.0
_QUIET_S = 240.0
_BURST_S = 90.0
_QUIET_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Ask:
    model: str
    at: float
    service_s: float
    bulk: bool


def catalogue(count: int, seed: int) -> list[Model]:
    """Return models whose popularity falls with their number: the first is asked for most."""
    rng = random.Random(seed)
    sizes = rng.choices(_SIZES, weights=[share for _, _, share in _SIZES], k=count)
    return [
        Model(
            id=f"m{n:03}",
            needs=(Need(DeviceKind.CUDA, mib, devices),),
            seats=16,
            pinned=n < 2,
            replicas_max=60,
            idle_ttl_s=600.0,
            load_s=_ENGINE_START_S + mib * devices / _WEIGHTS_MIB_PER_S,
        )
        for n, (mib, devices, _) in enumerate(sizes)
    ]


def hour(models: list[Model], *, rate: float, until_s: float, seed: int) -> Iterator[Ask]:
    """Yield requests: on the whole `rate` a second, most of them in bursts of a model of its own."""
    rng = random.Random(seed + 1)
    weights = [1.0 / (n + 1) for n in range(len(models))]
    for model, weight in zip(models, weights, strict=True):
        mean = rate * weight / sum(weights)
        on = _BURST_S / (_BURST_S + _QUIET_S)
        burst_rate, quiet_rate = mean * (1 - _QUIET_SHARE) / on, mean * _QUIET_SHARE / (1 - on)
        at, bursting, changes_at = 0.0, False, rng.expovariate(1 / _QUIET_S)
        while at < until_s:
            at += rng.expovariate(burst_rate if bursting else quiet_rate)
            while at > changes_at:
                bursting = not bursting
                changes_at += rng.expovariate(1 / (_BURST_S if bursting else _QUIET_S))
            if at < until_s:
                yield Ask(model.id, at, min(120.0, rng.lognormvariate(2.0, 0.8)), rng.random() < 0.1)
