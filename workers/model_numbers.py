"""Whole numbers out of a config.json, which is somebody else's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Larger than any size, and small enough that products of several stay handy.
_LARGEST = 10_000_000


class ShapeError(Exception):
    """config.json does not say what is needed, or says it oddly. The text names the key."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A config whose numbers are asked for by all the names they go by."""

    config: Mapping[str, Any]

    def first(self, *names: str, default: int | None = None) -> int:
        """Return the first that is there and not null. Raises ShapeError without one, unless there is a default."""
        for name in names:
            if (value := self.config.get(name)) is not None:
                if type(value) is not int or not 0 <= value <= _LARGEST:
                    raise ShapeError(f"config.json: {name} is not a number we can use")
                return value
        if default is None:
            raise ShapeError(f"config.json has no {names[0]}")
        return default
