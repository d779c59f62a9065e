"""Which model answers to a name.

A name leads to one model, or moves from one build to another (a rollout). A build that the
endpoint cannot be asked of is no candidate, so that nobody waits for its load to hear so.
Of two candidates:

1. `desired`, when it is ready;
2. `previous`, when that is;
3. `previous`, when the loader loads it because `desired` cannot be had;
4. `desired`, whose load begins with this request.

A build may belong to several names; each name goes by its own two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tasks.errors import ModelNotFoundError, UnsupportedEndpointError
from tasks.messages import Endpoint
from workers.capability import endpoints
from workers.placement.actions import Explanation
from workers.registry import ModelSpec, Registry


class Sight(Protocol):
    """What whoever routes sees of models: a gateway's dispatcher, or the feeder of bulk work."""

    def ready(self, model: str) -> bool: ...

    def outlook(self, model: str) -> Explanation | None: ...


@dataclass(frozen=True, slots=True)
class Route:
    spec: ModelSpec
    stand_in: str = ""
    """The other build of the rollout, where it could answer as well."""


def route(registry: Registry, name: str, endpoint: Endpoint, sight: Sight) -> Route:
    """Return where a request goes. Raises ModelNotFoundError and UnsupportedEndpointError."""
    targets = registry.targets(name)
    if targets is None:
        raise ModelNotFoundError("There is no such model here; GET /v1/models lists those there are.", param="model")
    able = [spec for spec in targets if spec is not None and _can(registry, spec, endpoint)]
    if not able:
        raise UnsupportedEndpointError(f"The model does not support {endpoint.value} requests.", param="model")
    if len(able) == 1:
        return Route(able[0])
    desired, previous = able
    if _previous_serves(desired, previous, sight):
        return Route(previous, desired.id)
    return Route(desired, previous.id)


def _previous_serves(desired: ModelSpec, previous: ModelSpec, sight: Sight) -> bool:
    if sight.ready(desired.id):
        return False
    if sight.ready(previous.id):
        return True
    outlook = sight.outlook(desired.id)
    return outlook is not None and outlook.instead == previous.id


def _can(registry: Registry, spec: ModelSpec, endpoint: Endpoint) -> bool:
    known = endpoints(registry, spec)
    return known is None or endpoint.value in known
