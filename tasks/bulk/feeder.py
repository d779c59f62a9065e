"""The feeder: a thread that leads, or waits for whoever leads to be gone.

Redis or the database may be away: then it says so once, tries again until they are back,
and begins from what the ledger says.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

import redis

from tasks.bulk.closing import CallResults, Closing
from tasks.bulk.feeding import Feeding
from tasks.bulk.files import FileStore
from tasks.bulk.lead import Lead
from tasks.bulk.ledger import Ledger, LedgerError
from tasks.bulk.ledger_desk import LedgerDesk
from tasks.bulk.wake import wake
from tasks.connections import blocking_client, command_client
from tasks.errors import ServingError
from tasks.settings import Settings
from workers.registry import RegistryError

log = logging.getLogger(__name__)

_STANDBY_S = 1.0
_RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)


class Feeder:
    """One a process. It starts with `start`, and whatever runs when it stops goes on with the next one."""

    def __init__(
        self, settings: Settings, results: CallResults, *, calls_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        """`calls_s` is how long the result of a `celery call` stands. `clock` counts Unix seconds."""
        self._settings = settings
        self._results = results
        self._calls_s = calls_s
        self._clock = clock
        self._client = command_client(settings.redis_url)
        self._blocking = blocking_client(settings.redis_url)
        self._lead = Lead(self._client)
        self._ledger: Ledger | None = None
        self._feeding: Feeding | None = None
        self._leading = False
        self._failures = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return once it has ended: a second or two, or less."""
        self._stopped.set()
        if self._leading:
            wake(self._client, "")
        self._thread.join(10)
        if not self._thread.is_alive():
            # Not by the thread itself: it may end while it is still being woken.
            self._client.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._turn(time.monotonic())
            except (redis.RedisError, LedgerError, ServingError, RegistryError, OSError) as error:
                self._failed(error)
            except Exception as error:
                # The thread's boundary: without it no bulk work would be done any more.
                log.exception("feeder broke", extra={"event": "feeder_broke"})
                self._failed(error)
            else:
                self._went_well()
        self._close()

    def _turn(self, now: float) -> None:
        feeding = self._feeding = self._feeding or self._build()
        if not self._lead.held(now):
            if self._leading:
                log.warning("lead lost", extra={"event": "feeder_overtaken"})
            self._leading = False
            self._stopped.wait(_STANDBY_S)
            return
        if not self._leading:
            feeding.resume(now)
            self._leading = True
            log.info("feeder leads", extra={"event": "feeder_leads"})
        feeding.turn(now)

    def _build(self) -> Feeding:
        """Raises LedgerError and RegistryError."""
        ledger = self._ledger = self._ledger or Ledger(self._settings.ledger_url)
        files = FileStore(self._settings.files)
        desk = LedgerDesk(ledger, files, self._client, self._clock)
        return Feeding(
            self._settings,
            ledger,
            files,
            self._client,
            self._blocking,
            closing=Closing(ledger, desk, self._results, self._clock),
            calls_s=self._calls_s,
            clock=self._clock,
        )

    def _failed(self, error: Exception) -> None:
        if not self._failures:
            # The text of a LedgerError is meant for operators.
            why = str(error) if isinstance(error, LedgerError | RegistryError) else type(error).__name__
            log.warning("feeding stopped", extra={"event": "feeder_stuck", "reason": why})
        self._leading = False
        self._lead.doubt()
        self._stopped.wait(_RETRY_S[min(self._failures, len(_RETRY_S) - 1)])
        self._failures += 1

    def _went_well(self) -> None:
        if self._failures:
            log.info("feeding goes on", extra={"event": "feeder_back"})
            self._failures = 0

    def _close(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            self._lead.resign()
        if self._feeding is not None:
            self._feeding.close()
        if self._ledger is not None:
            self._ledger.close()
        self._blocking.close()
