"""What a gateway does about a request before it queues it for a model that has no ready replica."""

from __future__ import annotations

import logging

import redis

from tasks.errors import ServingError
from tasks.gateway.ready_models import ReadyModels
from tasks.records.demands import DemandStore
from tasks.records.nudge import nudge
from tasks.records.outlooks import OutlookStore
from tasks.requests import cold_start
from tasks.requests.cold_start import Deferred, Patience, Terms

log = logging.getLogger(__name__)


class Threshold:
    """Blocking; raises redis.RedisError where nothing else is said."""

    def __init__(self, client: redis.Redis, ready: ReadyModels) -> None:
        self._client = client
        self._ready = ready
        self._outlooks = OutlookStore(client)
        self._demands = DemandStore(client)

    def obstacle(self, model: str, terms: Terms) -> ServingError | Deferred | None:
        """Return why a call for a model that is not ready is not to be queued; None when it is."""
        explanation = self._outlooks.latest([model]).get(model)
        error = cold_start.refusal(explanation, terms)
        if error is None and terms.patience is not Patience.DEFER:
            return None
        # Nobody is sent away for what was so half a second ago.
        self._ready.read()
        if model in self._ready:
            return None
        return error or Deferred(cold_start.standing(explanation))

    def ask(self, model: str) -> None:
        """Have the model loaded for a client that comes back."""
        self._demands.ask(model)
        self.nudge()

    def nudge(self) -> None:
        """Have the loader look at once. It looks by itself as well, so that nothing is lost if it is not reached."""
        try:
            nudge(self._client)
        except (redis.RedisError, OSError) as error:
            log.debug("loader not nudged: %r", error)
