"""The registry as the gateway has it: looked at again every two seconds while requests are served."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import gevent
from gevent import monkey

from workers.registry import Registry
from workers.registry_watch import INTERVAL_S, Change, RegistryWatch

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class LiveRegistry:
    """Start it in the process that uses it, after the fork. Asking for `current` costs nothing."""

    def __init__(self, watch: RegistryWatch, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch = watch
        self._clock = clock
        self._broken = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-registry", daemon=True)

    def current(self) -> Registry:
        return self._watch.current()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(INTERVAL_S + 5)

    def look(self) -> None:
        """Take over what has changed. What cannot be used is said once, and changes nothing."""
        try:
            change = _beside_the_hub(lambda: self._watch.poll(self._clock()))
        except Exception as error:
            # The thread's boundary: a share that is away for a moment must not end the looking for good.
            if repr(error) != self._broken:
                log.exception("registry not looked at", extra={"event": "registry_broke"})
            self._broken = repr(error)
            return
        self._broken = ""
        if change is not None:
            _report(change)

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            self.look()


def _report(change: Change) -> None:
    if change.problem is not None:
        log.error("models.yaml refused", extra={"event": "registry_refused", "problem": change.problem})
        return
    fields = {"added": change.added, "removed": change.removed, "changed": change.changed}
    log.info("registry changed", extra={"event": "registry_changed", **fields})


def _beside_the_hub(work: Callable[[], _T]) -> _T:
    """Run `work` on a thread of the system where threads are gevent's.

    Files block whoever reads them, and a large folder on a slow share would stop every stream of the process.
    """
    if not monkey.is_module_patched("threading"):
        return work()
    result: _T = gevent.get_hub().threadpool.apply(work)
    return result
