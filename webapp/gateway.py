"""What every handler of the gateway works with."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tasks.requests.dispatch import Dispatcher
from tasks.settings import Settings
from webapp.bulk_desk import BulkDesk
from webapp.drain import Drain
from workers.registry import Registry


class Registries(Protocol):
    """Where the registry comes from. It changes while the gateway runs."""

    def current(self) -> Registry: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The parts of one gateway process, put together by `webapp.app.create_app`."""

    settings: Settings
    registries: Registries
    dispatcher: Dispatcher
    desk: BulkDesk
    drain: Drain = field(default_factory=Drain)
    clock: Callable[[], float] = time.monotonic
    luck: Callable[[], float] = random.random
    """From 0 to 1: how long a refused client is told to stay away, between once and twice the least time."""

    @property
    def registry(self) -> Registry:
        """As it is now; ask once a request."""
        return self.registries.current()
