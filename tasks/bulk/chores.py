"""Long work of the feeder's, cut into slices that take turns with the feeding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator

import redis

from tasks.bulk.ledger import LedgerError
from tasks.errors import ServingError

log = logging.getLogger(__name__)

_AGAIN_S = 5.0

Steps = Iterator[bool]


class Chores:
    """By the id of a batch; one of an id at a time. Times are those of the monotonic clock."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[str, Steps]] = {}
        self._not_before: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._steps

    def begin(self, name: str, kind: str, make: Callable[[], Steps], now: float) -> None:
        """Have it done, unless it is being done, or failed a moment ago. Another kind of the same name is dropped."""
        doing = self._steps.get(name)
        if (doing is not None and doing[0] == kind) or now < self._not_before.get(name, now):
            return
        self.drop(name)
        self._steps[name] = kind, make()

    def drop(self, name: str) -> None:
        doing = self._steps.pop(name, None)
        if doing is not None and isinstance(doing[1], Generator):
            doing[1].close()

    def clear(self) -> None:
        for name in list(self._steps):
            self.drop(name)

    def step(self, now: float) -> tuple[bool, bool]:
        """Go on with each by a slice. Returns whether there is more to do at once, and whether one has ended.

        What the ledger and Redis raise comes out; whatever else goes wrong with one of them must not keep the others.
        """
        busy = ended = False
        for name, (_, steps) in list(self._steps.items()):
            try:
                busy = next(steps) or busy
            except StopIteration:
                self.drop(name)
                ended = True
            except (LedgerError, redis.RedisError):
                self.drop(name)
                raise
            except (ServingError, OSError) as error:
                extra = {"event": "bulk_chore_failed", "batch": name, "reason": type(error).__name__}
                log.warning("chore put off", extra=extra)
                self._put_off(name, now)
            except Exception:
                # The feeder's boundary: one batch that cannot be done must not keep the others from it.
                log.exception("chore broke", extra={"event": "bulk_chore_broke", "batch": name})
                self._put_off(name, now)
        return busy, ended

    def _put_off(self, name: str, now: float) -> None:
        self.drop(name)
        self._not_before = {other: at for other, at in self._not_before.items() if at > now}
        self._not_before[name] = now + _AGAIN_S
