"""One leads at a time."""

from __future__ import annotations

import redis

from tasks import keys
from tasks.bulk.lead import LEADS_S, RENEW_S, Lead


def test_the_second_waits_until_the_first_resigns(client: redis.Redis) -> None:
    first, second = Lead(client), Lead(client)
    assert first.held(0.0)
    assert not second.held(0.0)
    first.resign()
    assert second.held(0.0)


def test_a_lead_is_renewed_and_lapses_by_itself(client: redis.Redis) -> None:
    lead = Lead(client)
    assert lead.held(0.0)
    client.pexpire(keys.BULK_LOCK, 100_000)
    assert lead.held(RENEW_S - 0.1)
    assert client.pttl(keys.BULK_LOCK) > LEADS_S * 1000
    assert lead.held(RENEW_S)
    assert 0 < client.pttl(keys.BULK_LOCK) <= LEADS_S * 1000


def test_who_was_overtaken_learns_it_and_takes_nothing_away(client: redis.Redis) -> None:
    slow, other = Lead(client), Lead(client)
    assert slow.held(0.0)
    client.delete(keys.BULK_LOCK)
    assert other.held(0.0)
    assert slow.held(0.1)
    slow.doubt()
    assert not slow.held(0.2)
    slow.resign()
    assert not Lead(client).held(0.3)
