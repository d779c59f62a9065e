"""Who is placed next, when not everybody can be.

In this order: pinned models; what operators load; models that nothing serves and that
have waited beyond the age limit, the oldest first; other models that nothing serves, by
how much waits how long for what a load costs; replicas to be kept up without a request;
further replicas of models that are served already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from workers.placement.facts import Demand, Model
from workers.placement.scaling import wanted
from workers.placement.site import Site

# Bulk work may wait for a day, so a full bulk file does not outbid a chat at once.
_BULK_SHARE = 0.05


class Tier(IntEnum):
    """In order of urgency."""

    PINNED = 0
    ORDERED = 1
    STARVING = 2
    WAITING = 3
    KEPT = 4
    GROWING = 5


@dataclass(frozen=True, slots=True)
class Claim:
    """One replica that a model should get."""

    model: Model
    nth: int
    """Which of its replicas, counted from 0."""
    tier: Tier
    urgency: float
    """Within the tier; larger comes first."""
    starving_s: float | None
    """How long its oldest request has waited, once that is beyond the age limit and nothing serves it."""

    @property
    def why(self) -> str:
        return _WHY[Tier.STARVING if self.starving_s is not None else self.tier]


_WHY = {
    Tier.PINNED: "pinned",
    Tier.ORDERED: "loaded by an operator",
    Tier.STARVING: "has waited for too long",
    Tier.WAITING: "work waits for it",
    Tier.KEPT: "to be kept up",
    Tier.GROWING: "more work than seats",
}


def claims(site: Site) -> list[Claim]:
    """Return every replica that is missing, the most urgent first."""
    found = [claim for model in site.models.values() for claim in _claims(site, model)]
    return sorted(found, key=lambda claim: (claim.tier, -claim.urgency, claim.model.id))


def score(model: Model, demand: Demand) -> float:
    """Weigh what waits against what a load costs: requests times their age, for each second of loading."""
    waiting_s = demand.interactive * (1.0 + demand.interactive_oldest_s)
    waiting_s += _BULK_SHARE * demand.bulk * (1.0 + demand.bulk_oldest_s)
    return waiting_s / max(0.1, model.load_s)


def _claims(site: Site, model: Model) -> Iterator[Claim]:
    demand = site.demand(model.id)
    have = site.count(model.id)
    starving_s = None if have else _starving_s(site, demand)
    for nth in range(have, wanted(site, model)):
        tier = _tier(model, demand, nth, starving=starving_s is not None)
        # Of pinned models the largest goes first: a small one finds room where a large one does not.
        urgency = {
            Tier.PINNED: float(max((need.mib * need.devices for need in model.needs), default=0)),
            Tier.STARVING: starving_s or 0.0,
            Tier.GROWING: score(model, demand) / (nth + 1),
        }.get(tier, score(model, demand))
        yield Claim(model, nth, tier, urgency, starving_s if nth == have else None)


def _tier(model: Model, demand: Demand, nth: int, *, starving: bool) -> Tier:
    if nth < model.floor and model.pinned:
        return Tier.PINNED
    if nth == 0 and demand.load:
        return Tier.ORDERED
    if nth == 0 and demand.waiting:
        return Tier.STARVING if starving else Tier.WAITING
    return Tier.KEPT if nth < max(1, model.floor) else Tier.GROWING


def _starving_s(site: Site, demand: Demand) -> float | None:
    interactive = demand.interactive and demand.interactive_oldest_s >= site.limits.age_limit_s
    bulk = demand.bulk and demand.bulk_oldest_s >= site.limits.bulk_age_limit_s
    return demand.oldest_s if interactive or bulk else None
