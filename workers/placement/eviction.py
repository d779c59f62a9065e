"""Who leaves when a model has to be loaded and there is no room: the least recently used first.

Protected always: pinned models; what its model keeps (`replicas.min`); the previous build of
a rollout; what loads; an exclusive model with work. Protected until somebody starves: what
has work in flight or queued, and what has not served for long enough to be worth its load.
For a model that waits beyond the age limit the least busy replica is drained: it finishes
what it has. A model that has waited even longer itself does not lose its last replica.

Where the engine can, a replica is put to sleep instead of ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workers.placement.actions import Drain, Sleep
from workers.placement.facts import Model, Place, Replica
from workers.placement.fairness import Claim, Tier
from workers.placement.placing import Option, Spot, options
from workers.placement.room import Room, held
from workers.placement.site import Site
from workers.replicas import ReplicaState

# On a large site the choice is made among the first so many devices that can be cleared, in the
# order of who is missed least there; the next ones would hardly be better.
_ENOUGH_TO_CHOOSE_FROM = 32


@dataclass(frozen=True, slots=True)
class Victim:
    replica: Replica
    busy: bool
    active: bool
    """Not asleep already."""
    sleeps: bool
    """It is put to sleep instead of ended."""
    gives: int
    """What comes back of each of its devices."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """Who has to leave so that `spot` becomes free."""

    spot: Spot
    victims: tuple[Victim, ...]

    @property
    def harm(self) -> tuple[int, float, int]:
        """Work that is moved aside; how recently the victims were used; how many they are."""
        busy = sum(1 + victim.replica.in_flight for victim in self.victims if victim.busy)
        used_at = max((victim.replica.idle_since for victim in self.victims if victim.active), default=0.0)
        return (busy, used_at, len(self.victims))


class Evictions:
    """Finds who leaves for whom. One for a tick, since who may leave is looked up once."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._pools: dict[bool, dict[Place, list[Replica]]] = {}

    def least_harmful(self, claim: Claim) -> Eviction | None:
        """Return who has to leave for `claim`, or None where nobody may or it would not help.

        Nothing is started in the room before it is free: the next ticks see to that.
        """
        pool = self._pool_for(claim)
        among = [self._site.rooms[place] for place in pool]
        best: Eviction | None = None
        looked_at = 0
        for option in options(self._site, claim.model, lambda _: among):
            if (found := self._clear(option, claim, pool)) is None:
                continue
            if best is None or found.harm < best.harm:
                best = found
            looked_at += 1
            if looked_at == _ENOUGH_TO_CHOOSE_FROM:
                break
        return best

    def order(self, eviction: Eviction, why: str) -> list[Drain | Sleep]:
        """Enter the eviction into the books, and return what to do."""
        site = self._site
        orders: list[Drain | Sleep] = []
        for victim in eviction.victims:
            # Asked again: those before it may have taken the memory it would sleep in.
            sleeps = victim.sleeps and site.may_sleep(victim.replica)
            orders.append(site.sleep(victim.replica, why) if sleeps else site.drain(victim.replica, why))
        return orders

    def _clear(self, option: Option, claim: Claim, pool: Mapping[Place, Sequence[Replica]]) -> Eviction | None:
        cleared: list[tuple[Eviction, Room]] = []
        for room in option.rooms:
            inside = pool.get(room.place, ())
            most = room.free + room.coming + sum(held(replica) for replica in inside)
            if most < option.mib or not room.takes(claim.model):
                continue
            for asleep in (True, False):
                victims = self._leavers(room, option.mib, claim, self._victims(inside, claim, asleep=asleep))
                if victims is not None:
                    cleared.append((Eviction(Spot(option.mib, (room,), option.sleeper), tuple(victims)), room))
                    break
        if len(cleared) < option.devices:
            return None
        cleared.sort(key=lambda pair: pair[0].harm)
        chosen = cleared[: option.devices]
        leavers = {victim.replica.id: victim for eviction, _ in chosen for victim in eviction.victims}
        return Eviction(Spot(option.mib, tuple(room for _, room in chosen), option.sleeper), tuple(leavers.values()))

    def _leavers(self, room: Room, mib: int, claim: Claim, pool: Sequence[Victim]) -> list[Victim] | None:
        """Return who of `pool` has to leave `room`, nobody if it fits already, or None if it cannot be cleared."""
        rivals = room.in_the_way(claim.model)
        chosen = _spared(self._site, [victim for victim in pool if victim.active and victim.replica.model in rivals])
        if len(chosen) < sum(room.staying[rival] for rival in rivals):
            return None
        short = mib - room.free - room.coming
        crowd = sum(room.staying.values()) + 1 - room.slots
        for victim in pool:
            if _enough(chosen, short, crowd):
                break
            if victim not in chosen:
                chosen = _spared(self._site, [*chosen, victim])
        if not _enough(chosen, short, crowd):
            return None
        # The most recently used is in because it was needed; some before it may not be any more.
        for victim in list(reversed(chosen)):
            rest = [other for other in chosen if other is not victim]
            if victim.replica.model not in rivals and _enough(rest, short, crowd):
                chosen = rest
        return chosen

    def _victims(self, replicas: Sequence[Replica], claim: Claim, *, asleep: bool) -> list[Victim]:
        site = self._site
        return [
            _victim(site, replica, asleep=asleep)
            for replica in replicas
            if replica.id not in site.moved and replica.model != claim.model.id and _yields(site, replica, claim)
        ]

    def _pool_for(self, claim: Claim) -> dict[Place, list[Replica]]:
        """Return who may leave each device for somebody who starves, or does not.

        On each device, and of devices, in the order in which they should leave: the idle
        before the busy, the least busy first, and of equals the least recently used.
        """
        starving = claim.starving_s is not None
        if starving not in self._pools:
            site = self._site
            pool: dict[Place, list[Replica]] = {}
            leavers = [replica for replica in site.replicas if _may_leave(site, replica, starving=starving)]
            for replica in sorted(leavers, key=lambda replica: _least_missed(site, replica)):
                for room in site.rooms_of(replica):
                    pool.setdefault(room.place, []).append(replica)
            self._pools[starving] = pool
        return self._pools[starving]


def _may_leave(site: Site, replica: Replica, *, starving: bool) -> bool:
    """Say whether `replica` may leave for somebody, as far as that does not depend on who it is."""
    model = site.models.get(replica.model)
    if model is None or model.pinned or model.id in site.guarded or replica.state is not replica.heading:
        return False
    if replica.state is ReplicaState.SLEEPING:
        # Where work waits, its own model is about to wake it.
        return not site.demand(model.id).waiting
    if replica.state is not ReplicaState.READY:
        return False
    busy = _busy(site, replica)
    if busy and (model.exclusive or not starving):
        return False
    leaves_at = (replica.ready_at or replica.started_at) + _residency_s(site, replica, model, busy=busy)
    site.look_again(leaves_at)
    return site.now >= leaves_at


def _residency_s(site: Site, replica: Replica, model: Model, *, busy: bool) -> float:
    limits = site.limits
    cost_s = model.wake_s if site.may_sleep(replica) else model.load_s
    if not busy:
        return limits.residency_loads * cost_s
    return max(limits.turn_s, min(limits.turn_loads * cost_s, limits.age_limit_s))


def _yields(site: Site, replica: Replica, claim: Claim) -> bool:
    """Say whether a replica that may leave does so for `claim`.

    A busy one not if it is the last of a model that has waited even longer. An idle one not
    if it was just used, and the claim is for a further replica of a model that is served, and
    whose requests do not wait beyond the age limit.
    """
    if claim.starving_s is None or not _busy(site, replica):
        if claim.tier is not Tier.GROWING or site.now - replica.idle_since >= site.limits.growth_idle_s:
            return True
        return site.demand(claim.model.id).oldest_s >= site.limits.age_limit_s
    return site.count(replica.model) > 1 or site.demand(replica.model).oldest_s < claim.starving_s


def _victim(site: Site, replica: Replica, *, asleep: bool) -> Victim:
    sleeps = asleep and not _busy(site, replica) and site.may_sleep(replica)
    gives = replica.mib - replica.sleep_mib if sleeps else held(replica)
    return Victim(replica, _busy(site, replica), replica.state is ReplicaState.READY, sleeps, gives)


def _busy(site: Site, replica: Replica) -> bool:
    return replica.in_flight > 0 or site.demand(replica.model).waiting > 0


def _least_missed(site: Site, replica: Replica) -> tuple[bool, int, float, str]:
    return (_busy(site, replica), replica.in_flight, replica.idle_since, replica.id)


def _spared(site: Site, victims: Sequence[Victim]) -> list[Victim]:
    """Return those of `victims` that can go without their model falling below what it keeps."""
    going: Counter[str] = Counter()
    kept = []
    for victim in victims:
        model = site.models[victim.replica.model]
        if victim.active and site.count(model.id) - going[model.id] <= site.floor(model):
            continue
        going[model.id] += victim.active
        kept.append(victim)
    return kept


def _enough(victims: Iterable[Victim], short: int, crowd: int) -> bool:
    gone = list(victims)
    return sum(victim.gives for victim in gone) >= short and sum(victim.active for victim in gone) >= crowd
