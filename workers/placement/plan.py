"""Decide what the loader should do next, and touch nothing.

`plan` is a pure function of its arguments, and level-triggered: it looks at how things are,
not at what has happened. A tick that was lost, two that overlap, a loader that died half-way
make no difference to where it ends: what was ordered is in the facts (reservations,
`Replica.told`), and is not ordered again.

One tick, in this order:

1. Orders that are due again, replicas that have drained, models that are given up (`orders`).
2. What is not needed goes: idle too long, one too many, unloaded by hand (`scaling`).
3. What is missing, the most urgent first (`fairness`). For each: it is woken or started where it
   fits now (`placing`); else it waits for room that is already on its way; else the least harmful
   leave for it (`eviction`). Nothing starts in a room before its last user has gone.
4. Whoever got nothing learns why (`prospects`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from workers.placement import backoff, placing, rollouts
from workers.placement.actions import Action, Explanation, Outlook, Plan
from workers.placement.eviction import Evictions
from workers.placement.facts import Facts, Model
from workers.placement.fairness import Claim, claims
from workers.placement.orders import standing
from workers.placement.placing import Spot
from workers.placement.prospects import RETRY_AFTER_S, Prospects
from workers.placement.scaling import overslept, surplus
from workers.placement.site import Site
from workers.replicas import ReplicaState


def plan(facts: Facts, now: float) -> Plan:
    """Return what brings every model closer to what is asked of it, and why the rest has to wait."""
    site = Site(facts, now)
    rollouts.enter(site)
    actions: list[Action] = [*standing(site), *_release(site)]
    placement = _Placement(site)
    for claim in claims(site):
        actions += placement.settle(claim)
    again_at = site.again_at if site.again_at < float("inf") else None
    return Plan(tuple(actions), placement.explained(), again_at)


def _release(site: Site) -> Iterator[Action]:
    for replica, why in list(overslept(site)):
        yield site.drain(replica, why)
    for replica, why, ends in list(surplus(site)):
        # A model that idles may be asked for again soon; one that was unloaded or replaced is not.
        yield site.sleep(replica, why) if not ends and site.may_sleep(replica) else site.drain(replica, why)


class _Placement:
    """The claims of one tick, one after the other."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._evictions = Evictions(site)
        self._prospects = Prospects(site)
        self._stand_ins = rollouts.stand_ins(site)
        self._explanations: dict[str, Explanation] = {}
        self._rooms_made = 0

    def settle(self, claim: Claim) -> list[Action]:
        """Do what can be done for `claim`; for the build it may be replaced by, where nothing can."""
        model = claim.model
        if self._site.count(model.id) > claim.nth:
            # It is there already, in the place of another.
            return []
        if model.id in self._explanations and self._explanations[model.id].outlook is not Outlook.LOADING:
            # What its first missing replica did not get, the second does not get either.
            return []
        actions, self._explanations[model.id] = self._place(claim)
        stand_in = self._site.models.get(self._stand_ins.get(model.id, ""))
        if stand_in is None or not stand_in.ceiling or self._site.count(stand_in.id):
            return actions
        if self._is_lost(model):
            more, self._explanations[stand_in.id] = self._place(replace(claim, model=stand_in, nth=0))
            actions += more
        return actions

    def explained(self) -> dict[str, Explanation]:
        """Return what everybody can expect who waits, was to be placed, or is on its way."""
        site = self._site
        found = {}
        for model in site.models.values():
            comes = site.count(model.id) > 0 and not site.ready(model.id)
            if not (site.demand(model.id).waiting or model.id in self._explanations or comes):
                continue
            if site.ready(model.id):
                found[model.id] = Explanation(outlook=Outlook.SERVING, text="a replica is ready")
                continue
            explanation = self._explanations.get(model.id)
            if explanation is None:
                explanation = _loading(site, model) if site.count(model.id) else _NONE_ALLOWED
            found[model.id] = replace(explanation, instead=self._instead(model))
        return found

    def _is_lost(self, model: Model) -> bool:
        """Say whether nothing will serve `model` soon, so that its previous build has to."""
        explanation = self._explanations.get(model.id, _NONE_ALLOWED)
        return not self._site.count(model.id) and explanation.outlook in _HOPELESS

    def _instead(self, model: Model) -> str | None:
        stand_in = self._stand_ins.get(model.id)
        if stand_in is None:
            return None
        coming = stand_in in self._explanations and self._explanations[stand_in].outlook in _COMING
        coming = coming or self._site.count(stand_in) > 0
        return stand_in if self._site.ready(stand_in) or (coming and self._is_lost(model)) else None

    def _place(self, claim: Claim) -> tuple[list[Action], Explanation]:
        """Do what can be done for a replica of `claim.model`.

        1. Not while the kill switch is on, or its loads fail, or it is just falling asleep.
        2. It is started or woken where it fits now.
        3. It waits where it will fit: the room is taken out of the books, so that nobody else counts on it.
        4. Others leave for it.
        5. Nothing can be done in this tick.
        """
        site, model = self._site, claim.model
        if (obstacle := _obstacle(site, model)) is not None:
            return [], obstacle  # 1
        if (spot := placing.now(site, model)) is not None:
            return [self._load(claim, spot)], _loading(site, model)  # 2
        if (spot := placing.later(site, model)) is not None:
            return [], self._wait_for(claim, spot)  # 3
        may_move = site.facts.automatic and self._rooms_made < site.limits.room_makers
        if may_move and (eviction := self._evictions.least_harmful(claim)) is not None:
            self._rooms_made += 1
            leave = self._evictions.order(eviction, f"making room for {model.id}: {claim.why}")
            return [*leave], self._wait_for(claim, eviction.spot)  # 4
        if claim.starving_s is None and claim.nth == 0:
            site.look_again(site.now + site.limits.age_limit_s - site.demand(model.id).oldest_s)
        return [], self._prospects.of(model)  # 5

    def _load(self, claim: Claim, spot: Spot) -> Action:
        self._prospects.booked(claim.model, spot)
        if spot.sleeper is not None:
            return self._site.wake(spot.sleeper, claim.why)
        return self._site.start(claim.model, spot.mib, spot.rooms, claim.why)

    def _wait_for(self, claim: Claim, spot: Spot) -> Explanation:
        host = spot.rooms[0].host.id
        if all(room.fits(claim.model, spot.mib) for room in spot.rooms):
            found = Explanation(outlook=Outlook.IN_TURN, text=f"{host} has room for it, and is loading others first")
        else:
            found = Explanation(outlook=Outlook.MAKING_ROOM, text=f"other models are leaving {host} for it")
        self._prospects.booked(claim.model, spot)
        self._site.claim(claim.model, spot.mib, spot.rooms)
        return found


_HOPELESS = (Outlook.NO_MACHINE, Outlook.BACKING_OFF, Outlook.FAILED, Outlook.CANNOT_RUN, Outlook.NO_CAPACITY)
_COMING = (Outlook.SERVING, Outlook.LOADING, Outlook.MAKING_ROOM)
_SWITCHED_OFF = Explanation(
    outlook=Outlook.SWITCHED_OFF,
    text="models are loaded by hand only at the moment; an operator can load it with celerity load",
    retry_after_s=RETRY_AFTER_S,
)
_NONE_ALLOWED = Explanation(
    outlook=Outlook.NO_CAPACITY, text="its replicas.max is 0, so it is not loaded", retry_after_s=RETRY_AFTER_S
)


def _obstacle(site: Site, model: Model) -> Explanation | None:
    """Return why no load of `model` may begin whatever room there is."""
    if not site.facts.automatic and not site.demand(model.id).load:
        return _SWITCHED_OFF
    failures = site.failures.get(model.id)
    if failures is not None and backoff.hopeless(failures, site.limits):
        return Explanation(outlook=Outlook.FAILED, text=failures.reason)
    if failures is not None and (wait_s := backoff.may_retry_at(failures, site.limits) - site.now) > 0:
        site.look_again(site.now + wait_s)
        text = f"{failures.reason}; the next try is in {wait_s:.0f} s"
        return Explanation(outlook=Outlook.BACKING_OFF, text=text, retry_after_s=wait_s)
    if model.id in site.dozing and not site.count(model.id):
        return Explanation(outlook=Outlook.LOADING, text="it is being put to sleep, and is woken after that")
    return None


# A load that takes longer than it used to is nearly done for all that is known, never quite.
_NEARLY_DONE = 0.95


def _loading(site: Site, model: Model) -> Explanation:
    begun = [replica.started_at for replica in site.live[model.id] if replica.state is ReplicaState.STARTING]
    elapsed_s = max(0.0, site.now - min(begun)) if begun else 0.0
    return Explanation(
        outlook=Outlook.LOADING,
        text=f"it is being loaded, which takes about {model.load_s:.0f} s",
        retry_after_s=max(1.0, model.load_s - elapsed_s),
        progress=min(_NEARLY_DONE, elapsed_s / model.load_s) if model.load_s > 0 else _NEARLY_DONE,
    )
