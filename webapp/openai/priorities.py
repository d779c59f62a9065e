"""Which priority a request has: OpenAI's `service_tier`, and what its key may ask for.

| `service_tier`                 | the request                                      |
|--------------------------------|--------------------------------------------------|
| none, `auto`                   | as the key has it: interactive, if it may be     |
| `default`, `priority`, `scale` | is interactive, and nothing goes before those    |
| `flex`                         | is bulk work: it fills the seats that are free   |
"""

from __future__ import annotations

from typing import Any

from tasks.errors import PriorityNotAllowedError
from tasks.queues import Priority
from webapp.api_keys import Priorities

_TIERS = {
    "default": Priority.INTERACTIVE,
    "priority": Priority.INTERACTIVE,
    "scale": Priority.INTERACTIVE,
    "flex": Priority.BULK,
}


def priority_of(body: dict[str, Any], allowed: Priorities) -> Priority:
    """Read the body, which was checked. Raises PriorityNotAllowedError."""
    priority = _TIERS.get(body.get("service_tier") or "auto", allowed.usual)
    if priority is Priority.BULK:
        require_bulk(allowed, "leave 'service_tier': 'flex' out", param="service_tier")
    elif not allowed.allow(priority):
        raise PriorityNotAllowedError(
            "This API key is for bulk work only: leave 'service_tier' out or send 'flex', or use a key made with "
            "'celerity keys add NAME'.",
            param="service_tier",
        )
    return priority


def require_bulk(allowed: Priorities, instead: str, *, param: str | None = None) -> None:
    """Raise PriorityNotAllowedError unless the key may ask for bulk work. `instead` says what it can do without."""
    if not allowed.allow(Priority.BULK):
        raise PriorityNotAllowedError(
            f"This API key is not for bulk work: {instead}, or use a key made with "
            "'celerity keys add NAME --priority any'.",
            param=param,
        )
