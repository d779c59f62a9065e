"""On which devices a replica goes that fits without anybody leaving.

Filter, then reliability, then load: of the devices that can take it, those of nodes that
are trusted and where its last load did not fail; of these the one with most free memory.
Several devices are always of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from workers.placement.facts import Model, Need, Replica
from workers.placement.hosts import Gate
from workers.placement.room import Room
from workers.placement.site import Site


@dataclass(frozen=True, slots=True)
class Spot:
    """Where one replica would go, and what it would take there of each device."""

    mib: int
    rooms: tuple[Room, ...]
    sleeper: Replica | None = None
    """The replica to be woken; None: a new one is started."""


@dataclass(frozen=True, slots=True)
class Option:
    """Devices of one node among which `devices` have to be found, with `mib` on each."""

    mib: int
    devices: int
    rooms: Sequence[Room]
    sleeper: Replica | None = None


Among = Callable[[int], Iterable[Room]]
"""Given MiB, the single devices that are to be looked at."""


def now(site: Site, model: Model) -> Spot | None:
    """Return the best spot where `model` fits as things are, or None. One that sleeps is woken first."""
    for option in sleepers(site, model):
        if all(room.fits(model, option.mib) for room in option.rooms):
            return Spot(option.mib, tuple(option.rooms), option.sleeper)
    for need in model.needs:
        best: tuple[tuple[float, ...], tuple[Room, ...]] | None = None
        for rooms in _fitting(site, model, need):
            key = _preference(site, model, rooms)
            if best is None or key > best[0]:
                best = (key, rooms)
            if not model.places and key[0] == Gate.OPEN and key[1]:
                # Groups come with the most free memory first, so none of the rest is better.
                break
        if best is not None:
            return Spot(need.mib, best[1])
    return None


def later(site: Site, model: Model) -> Spot | None:
    """Return where it will fit without another decision, or None.

    That is once what leaves has left, or once a node that has room is done with the loads it has begun.
    """
    best: tuple[int, Spot] | None = None
    for option in options(site, model, site.by_free_soon.at_least, waiting=True):
        if not any(room.coming or room.leaving or room.host.open_soon for room in option.rooms):
            continue
        able = [room for room in option.rooms if room.will_fit(model, option.mib)]
        if len(able) >= option.devices:
            able.sort(key=lambda room: (-(room.free + room.coming), room.place))
            spot = Spot(option.mib, tuple(able[: option.devices]), option.sleeper)
            space = 1 << 40 if option.sleeper else spot.rooms[-1].free + spot.rooms[-1].coming
            if best is None or space > best[0]:
                best = (space, spot)
            if option.devices == 1 and not model.places:
                # The largest come first.
                break
    return None if best is None else best[1]


def options(site: Site, model: Model, among: Among, *, waiting: bool = False) -> Iterator[Option]:
    """Yield where `model` might be: to be woken first, then as its needs are listed.

    Of single devices only those `among` them are yielded; of several, every node that has
    enough. Nodes that may not begin another load now are left out; `waiting` takes those in that soon may.
    """
    yield from sleepers(site, model)
    for need in model.needs:
        for rooms in groups(site, model, need, among(need.mib)):
            if rooms[0].host.gate or (waiting and rooms[0].host.open_soon):
                yield Option(need.mib, need.devices, rooms)


def sleepers(site: Site, model: Model) -> Iterator[Option]:
    for replica in site.asleep[model.id]:
        rooms = site.rooms_of(replica)
        if len(rooms) == len(replica.devices) and rooms and rooms[0].host.gate:
            yield Option(replica.mib - replica.sleep_mib, len(rooms), rooms, replica)


def groups(site: Site, model: Model, need: Need, among: Iterable[Room]) -> Iterator[Sequence[Room]]:
    """Yield the devices of which `need` takes some: each of `among` alone, or those of a node together."""
    if need.devices > 1:
        for (_, kind), rooms in site.by_node.items():
            if kind is need.kind and len(rooms) >= need.devices:
                yield rooms
    elif model.places:
        found = (site.rooms[place] for place in sorted(model.places) if place in site.rooms)
        yield from ((room,) for room in found if room.kind is need.kind)
    else:
        yield from ((room,) for room in among if room.kind is need.kind)


def _fitting(site: Site, model: Model, need: Need) -> Iterable[tuple[Room, ...]]:
    """Yield what fits now; for single devices of a model that may be anywhere, the emptiest first."""
    if need.devices == 1 and not model.places:
        return _emptiest_first(site, model, need)
    found = []
    for rooms in groups(site, model, need, ()):
        able = [room for room in rooms if room.free >= need.mib and room.host.gate and room.fits(model, need.mib)]
        if len(able) >= need.devices:
            able.sort(key=lambda room: (-room.free, room.place))
            found.append(tuple(able[: need.devices]))
    return sorted(found, key=lambda rooms: -min(room.free for room in rooms))


def _emptiest_first(site: Site, model: Model, need: Need) -> Iterator[tuple[Room, ...]]:
    for room in site.by_free.at_least(need.mib):
        if room.kind is need.kind and room.host.gate and room.fits(model, need.mib):
            yield (room,)


def _preference(site: Site, model: Model, rooms: tuple[Room, ...]) -> tuple[float, ...]:
    host = rooms[0].host
    failures = site.failures.get(model.id)
    untried = failures is None or host.id not in failures.nodes
    # A model that says where it may be is spread evenly over these places.
    here = sum(room.staying.get(model.id, 0) for room in rooms) if model.places else 0
    return (host.gate, untried, -here, min(room.free for room in rooms))
