"""I1–I7, checked after every row. What each means stands in docs/faults.md."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import redis

from tasks import keys
from tests.faults.managed import Managed
from tests.faults.outcome import Kind, Outcome
from tests.faults.row import Mark, Row, Run, first_words
from tests.faults.system import System

QUIET_WITHIN_S = 30.0
# On a shared machine a percentile of few requests jumps; a real effect is larger than this.
_JITTER_S = 0.25

_RECORD, _STREAM, _HELD = keys.request(""), keys.stream(""), "celerity:held:"


def check_all(row: Row, run: Run) -> tuple[dict[str, str], list[str]]:
    """Return a mark for each invariant, and what is wrong in words."""
    problems: list[str] = []
    marks = {
        "I1": _one_end(row, run, problems),
        "I2": _right_tokens(run, problems),
        "I3": _quiescence(run.system, problems),
        "I4": _ledger(run, problems),
        "I5": _policy(run.system, problems),
        "I6": _blast_radius(row, run, problems),
    }
    return {name: mark.value for name, mark in marks.items()}, problems


def _one_end(row: Row, run: Run, problems: list[str]) -> Mark:
    """Every request has ended, once, and no end only looked like one."""
    allowed = {Kind.CLEAN, Kind.FAILED, Kind.CANCELLED} | ({Kind.CUT} if row.cuts_allowed else set())
    bad = [outcome for outcome in _everything(run) if outcome.kind not in allowed]
    if bad:
        problems.append(f"I1: {first_words(bad, 5)}")
    return Mark.BROKEN if bad else Mark.HELD


def _right_tokens(run: Run, problems: list[str]) -> Mark:
    bad = [o for o in _everything(run) if o.kind is Kind.DIRTY and ("wrong text" in o.why or "twice" in o.why)]
    if bad:
        problems.append(f"I2: {first_words(bad, 5)}")
    return Mark.BROKEN if bad else Mark.HELD


def _quiescence(system: System, problems: list[str]) -> Mark:
    """Once the last client has left, everything is as if nobody had ever come."""
    give_up = time.monotonic() + QUIET_WITHIN_S
    while left := list(_noises(system)):
        if time.monotonic() > give_up:
            problems.extend(f"I3: {noise}" for noise in left)
            return Mark.BROKEN
        time.sleep(0.25)
    return Mark.HELD


def _noises(system: System) -> Iterable[str]:
    for gateway in system.gateways:
        in_flight = gateway.metric("celerity_requests_in_flight")
        if in_flight is None or in_flight > 0:
            yield f"gateway {gateway.number} has {in_flight} requests in flight"
    try:
        with system.client() as client:
            yield from _redis_noises(system, client)
    except (redis.RedisError, OSError) as error:
        yield f"Redis cannot be asked: {error}"
    strangers = [pid for pid in system.pids() if _group(pid) not in system.known_groups()]
    if strangers:
        yield f"processes that nobody watches: {strangers}"


def _redis_noises(system: System, client: redis.Redis) -> Iterable[str]:
    for slot in system.slots:
        in_flight = int(client.hget(keys.replica(slot.replica_id), "in_flight") or 0)
        if in_flight:
            yield f"{slot.replica_id} says it runs {in_flight} requests"
    for raw in client.scan_iter(count=1000):
        key = raw.decode()
        if key.startswith(("model.", "unacked")) or key.startswith(_HELD):
            if size := _size(client, key):
                yield f"{key} holds {size}"
        elif key.startswith(_RECORD):
            if not client.hexists(key, "ended"):
                yield f"{key} stands without an end: {_facts(client, key)}"
        elif not key.startswith(keys.KOMBU_PREFIXES) and key not in keys.FOR_EVER and client.ttl(key) == -1:
            yield f"{key} has no time to live"


def _size(client: redis.Redis, key: str) -> int:
    """Return how much stands under a key that should be empty. A mutex of kombu's is nothing."""
    sizes: dict[object, Callable[[str], object]] = {
        b"list": client.llen,
        b"hash": client.hlen,
        b"set": client.scard,
        b"zset": client.zcard,
    }
    count = sizes.get(client.type(key))
    return int(str(count(key))) if count else 0


def _facts(client: redis.Redis, key: str) -> str:
    names = ("replica", "attempt", "tries", "deaths", "migrations", "gateway", "keep_s")
    values: list[Any] = client.hmget(key, *names)
    return " ".join(f"{name}={(value or b'').decode()}" for name, value in zip(names, values, strict=True))


def _ledger(run: Run, problems: list[str]) -> Mark:
    """Every line of a batch has exactly one result."""
    if run.ledger_held is None:
        return Mark.NOT_APPLICABLE
    if not run.ledger_held:
        problems.append(f"I4: {run.ledger_told}")
    return Mark.HELD if run.ledger_held else Mark.BROKEN


def _policy(system: System, problems: list[str]) -> Mark:
    """The loader has broken none of its rules; see `tests.faults.policy`."""
    if not isinstance(system, Managed):
        return Mark.NOT_APPLICABLE
    system.policy.stop()
    problems.extend(f"I5: {what}" for what in system.policy.broken.values())
    return Mark.BROKEN if system.policy.broken else Mark.HELD


def _blast_radius(row: Row, run: Run, problems: list[str]) -> Mark:
    """Requests for another model have no errors, and take no more than twice as long as before."""
    if not row.blast or run.fault_at is None:
        return Mark.NOT_APPLICABLE
    bad = [outcome for outcome in run.others if outcome.kind is not Kind.CLEAN]
    if bad:
        problems.append(f"I6: {first_words(bad)}")
    before = [o.took_s for o in run.others if o.ended < run.fault_at]
    after = [o.took_s for o in run.others if o.began >= run.fault_at]
    if run.timed and len(before) >= 10 and len(after) >= 10:
        was, now = _p99(before), _p99(after)
        if now > 2 * was + _JITTER_S:
            problems.append(f"I6: p99 of the other model went from {was:.3f} s to {now:.3f} s")
            return Mark.BROKEN
    return Mark.BROKEN if bad else Mark.HELD


def _everything(run: Run) -> list[Outcome]:
    return [*run.outcomes, *run.others]


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def _group(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(pid)
    return -1
