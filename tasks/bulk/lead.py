"""One feeder at a time, by a lock that is renewed. Two at once would do no harm, only the same work twice."""

from __future__ import annotations

import secrets

import redis

from tasks import keys
from tasks.scripts import script

# By then another feeder takes over from one that was killed.
LEADS_S = 5.0
RENEW_S = 1.5


class Lead:
    """Blocking; raises redis.RedisError. `now` is a time of the monotonic clock."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._hold = client.register_script(script("hold"))
        self._let_go = client.register_script(script("let_go"))
        self._token = secrets.token_hex(8)
        self._renewed_at: float | None = None

    def held(self, now: float) -> bool:
        """Say whether we lead; asks Redis only when it is time to."""
        if self._renewed_at is not None and now - self._renewed_at < RENEW_S:
            return True
        ours = self._renewed() or bool(self._hold(keys=[keys.BULK_LOCK], args=[self._token, int(LEADS_S * 1000)]))
        self._renewed_at = now if ours else None
        return ours

    def _renewed(self) -> bool:
        """Prolong the lock if we had it. Where another has it by now, that is prolonged: it does no harm."""
        if self._renewed_at is None:
            return False
        holder: object = self._client.getex(keys.BULK_LOCK, px=int(LEADS_S * 1000))
        return holder == self._token.encode()

    def doubt(self) -> None:
        """Have the next `held` ask Redis: the connection was lost."""
        self._renewed_at = None

    def resign(self) -> None:
        """Let another feeder lead at once."""
        self._renewed_at = None
        self._let_go(keys=[keys.BULK_LOCK], args=[self._token])
