"""Records of Redis, without those that cannot be read: a newer release may write what this one does not know."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

_R = TypeVar("_R")
_T = TypeVar("_T")


def readable(records: Iterable[tuple[str, _R]], decode: Callable[[_R], _T]) -> Iterator[_T]:
    """Yield what `decode` makes of each record; of one that it cannot make anything of, the name is logged once."""
    for name, record in records:
        try:
            yield decode(record)
        except (KeyError, ValueError, TypeError) as error:
            _tell(name, type(error).__name__)


@functools.lru_cache(maxsize=256)
def _tell(name: str, error: str) -> None:
    log.warning("record not read", extra={"event": "record_unreadable", "record": name, "error": error})
