"""What operators do, whichever way they come: /admin, `celerity load`, or `celery call tasks.loader.load`.

An order is a wish that the loader fulfils when it can, so every operation returns at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import redis

from tasks.connections import command_client
from tasks.errors import ModelNotFoundError, ServiceUnavailableError
from tasks.records import status
from tasks.records.load_failures import LoadFailureStore
from tasks.records.nodes import redis_time
from tasks.records.nudge import nudge
from tasks.records.outlooks import OutlookStore
from tasks.records.wishes import Wish, WishStore
from workers.registry import ModelSpec, Registry

log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """An order that was written down."""

    model: str
    at: float
    """By Redis' clock: a tick that began later has seen it."""
    note: str
    """What will come of it, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One model as the status has it, and how the loader does."""

    entry: dict[str, Any]
    loader: dict[str, Any]
    seen: bool
    """A whole tick was made since the moment that was asked about: what the entry says takes it into account."""


class Operations:
    """Blocking.

    Every method raises ServiceUnavailableError when Redis is out of reach; those that are
    given a name raise ModelNotFoundError when it leads to no model.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._wishes = WishStore(client)
        self._outlooks = OutlookStore(client)
        self._failures = LoadFailureStore(client)

    @classmethod
    def over(cls, redis_url: str) -> Self:
        """Return operations with connections of their own, made when they are needed."""
        return cls(command_client(redis_url))

    def close(self) -> None:
        self._client.close()

    def status(self, registry: Registry) -> dict[str, Any]:
        return _reached(lambda: status.read(self._client, registry))

    def look(self, registry: Registry, name: str, since: float = 0.0) -> Look:
        """Return how a model is, and whether that is known to be later than `since`, by Redis' clock."""
        spec = _found(registry, name)
        known = _reached(lambda: status.gather(self._client, registry))
        document = status.document(known)
        return Look(
            entry=next(entry for entry in document["models"] if entry["id"] == spec.id),
            loader=document["loader"],
            seen=known.loader_ran_at is not None and known.loader_ran_at >= since,
        )

    def load(self, registry: Registry, name: str, *, by: str = "") -> Ordered:
        """Have a model loaded before all but the pinned ones, whatever became of its last load."""
        spec = _found(registry, name)

        def order() -> float:
            # First, so that a tick which sees the wish no longer sees what would speak against it.
            self._failures.forget(spec.id)
            self._outlooks.forget(spec.id)
            return self._order(spec, Wish.LOAD)

        at = _reached(order)
        _note_down(Wish.LOAD, spec, by)
        return Ordered(
            model=spec.id, at=at, note="It is loaded as soon as there is room for it; its state says how far."
        )

    def unload(self, registry: Registry, name: str, *, by: str = "") -> Ordered:
        """Have all replicas of a model finish what they have and end, also of a pinned one."""
        spec = _found(registry, name)
        at = _reached(lambda: self._order(spec, Wish.UNLOAD))
        _note_down(Wish.UNLOAD, spec, by)
        return Ordered(model=spec.id, at=at, note=_unload_note(spec))

    def switch(self, *, automatic: bool, by: str = "") -> None:
        """Turn the kill switch: while it is not automatic, the loader does nothing but what operators order."""

        def turn() -> None:
            self._wishes.switch(automatic=automatic)
            nudge(self._client)

        _reached(turn)
        log.info("loader switched", extra={"event": "loader_switched", "automatic": automatic, "by": by})

    def _order(self, spec: ModelSpec, wish: Wish) -> float:
        self._wishes.wish(spec.id, wish)
        at = redis_time(self._client)
        nudge(self._client)
        return at


def _found(registry: Registry, name: str) -> ModelSpec:
    spec = registry.resolve(name)
    if spec is None:
        raise ModelNotFoundError("There is no such model or alias here; GET /v1/models lists those there are.")
    return spec


def _unload_note(spec: ModelSpec) -> str:
    kept = spec.pinned or spec.replicas_min > 0
    why = "pinned" if spec.pinned else "one of which some replicas are always kept"
    lasts = f" Though it is {why}, it stays away until then, for a day at most." if kept else ""
    return (
        f"Its replicas finish what they have and end; a request for it, or an order to load it, brings it back.{lasts}"
    )


def _note_down(wish: Wish, spec: ModelSpec, by: str) -> None:
    log.info("ordered by hand", extra={"event": "operator_order", "order": wish.value, "model": spec.id, "by": by})


def _reached(command: Callable[[], _T]) -> _T:
    try:
        return command()
    except (redis.RedisError, OSError) as error:
        log.warning("redis not reached", extra={"event": "redis_lost", "reason": type(error).__name__})
        raise ServiceUnavailableError("Redis cannot be reached; try again in a moment.") from error
