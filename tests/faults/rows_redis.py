"""F9–F15: Redis restarted, frozen, slow, full, cut off, or replaced by its replica."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from tests.faults.client import ask
from tests.faults.keeping import accept, result_of
from tests.faults.load import reach
from tests.faults.outcome import Kind, Outcome
from tests.faults.redis_server import RedisServer
from tests.faults.row import Run, first_words
from tests.faults.system import System
from tests.waiting import wait_until

BACK_WITHIN_S = 5.0
TOLD_WITHIN_S = 10.0


def restarted_without_aof(run: Run) -> None:
    """F9: everything in Redis is lost. Who had nothing yet is answered all the same; the others are told."""
    replicas = _replicas(run.system)
    load = run.load(8)
    time.sleep(4)
    run.fault()
    down_at = time.monotonic()
    run.system.redis.shutdown()
    time.sleep(1)
    run.check(
        "/health is not 200 while Redis is away",
        _unhealthy(run.system),
        [g.get("/health")[0] for g in run.system.gateways],
    )
    run.system.redis.start()
    run.healed()
    time.sleep(8)
    load.stop()
    _after_restart(run, replicas, down_at)


def restarted_with_aof(run: Run) -> None:
    """F10: kill -9, and what was written a second earlier is there again."""
    replicas = _replicas(run.system)
    load = run.load(8)
    time.sleep(3)
    # Accepted and waiting for nobody: these must be answered after the restart.
    kept = [accept(run.system.port(), run.book.next(stream=False, tokens=300)) for _ in range(20)]
    time.sleep(1.5)
    run.fault()
    down_at = time.monotonic()
    run.system.redis.kill()
    time.sleep(1)
    run.system.redis.start()
    run.healed()
    time.sleep(8)
    load.stop()
    _after_restart(run, replicas, down_at)
    states = [result_of(run.system, path, expected) for path, expected in kept]
    run.check(
        "20 of 20 accepted > 1 s before are answered", states == ["ok"] * 20, [s for s in states if s != "ok"][:3]
    )


def _after_restart(run: Run, replicas: dict[str, int], down_at: float) -> None:
    run.system.wait_ready()
    run.check("no worker has reloaded its model", _replicas(run.system) == replicas, _replicas(run.system))
    since = run.healed_at or 0.0
    back = [o.ended - since for o in run.outcomes if o.kind is Kind.CLEAN and o.began >= down_at]
    seen = f"{min(back):.2f} s" if back else "never"
    run.check(
        f"a request made meanwhile or later is answered within {BACK_WITHIN_S:g} s of the return",
        back and min(back) <= BACK_WITHIN_S,
        seen,
        timed=True,
    )
    late = [o for o in run.outcomes if o.began >= since + BACK_WITHIN_S and o.kind is not Kind.CLEAN]
    run.check(f"and {BACK_WITHIN_S:g} s after it everyone is", not late, first_words(late), timed=True)
    told = [o for o in run.outcomes if o.began < down_at and o.kind is Kind.FAILED]
    slow = [o for o in told if o.ended - down_at > TOLD_WITHIN_S]
    run.check(f"whose answer is lost is told within {TOLD_WITHIN_S:g} s", not slow, first_words(slow), timed=True)
    run.nothing_dirty()


def frozen_and_slow(run: Run) -> None:
    """F11: SIGSTOP for 5 s; later half a second of latency on every connection."""
    assert run.system.proxy is not None
    replicas = _replicas(run.system)
    load = run.load(8)
    time.sleep(3)
    run.fault()
    with _asking(run.system) as asked:
        run.system.redis.freeze(5)
    run.check(
        "/live and /v1/models answer meanwhile", asked and set(asked) == {200}, f"{len(asked)} times: {set(asked)}"
    )
    time.sleep(4)
    run.system.proxy.order("latency 500")
    time.sleep(8)
    run.system.proxy.order("pass")
    run.healed()
    time.sleep(3)
    load.stop()
    run.system.wait_ready()
    run.check("no worker has ended", _replicas(run.system) == replicas, _replicas(run.system))
    run.nothing_dirty()
    _ended_well(run)


def full(run: Run) -> None:
    """F12: no memory for another write. New requests get 503, running ones end with an error, all without a restart."""
    replicas = _replicas(run.system)
    load = run.load(8)
    time.sleep(3)
    run.fault()
    with run.system.client() as client:
        client.config_set("maxmemory", "1mb")
        # Longer than whoever is in the middle may wait to be told.
        time.sleep(TOLD_WITHIN_S + 2)
        refused = ask(run.system.port(), run.book.next())
        client.config_set("maxmemory", "0")
    run.healed()
    time.sleep(5)
    load.stop()
    run.system.wait_ready()
    told_in_time(run)
    run.check("new requests get 503", refused.status == 503, f"{refused.status} {refused.why}")
    run.check("no worker has ended", _replicas(run.system) == replicas, _replicas(run.system))
    run.nothing_dirty()
    _ended_well(run)


def told_in_time(run: Run) -> None:
    """Check that nobody who was in the middle of an answer when the fault came was left waiting."""
    fault_at = run.fault_at or 0.0
    begun = [o for o in run.outcomes if o.began < fault_at < o.ended]
    slow = [o for o in begun if o.ended - fault_at > TOLD_WITHIN_S]
    latest = max((o.ended - fault_at for o in begun), default=0.0)
    seen = f"{len(begun)} of them, the last after {latest:.1f} s; late: {first_words(slow)}"
    run.check(f"whose answer cannot go on is told within {TOLD_WITHIN_S:g} s", begun and not slow, seen, timed=True)


def connections_killed(run: Run) -> None:
    """F13: every connection to Redis is cut again and again while clients come and go."""
    load = run.load(12)
    leaver = threading.Thread(target=_leave_often, args=(run, 60), daemon=True)
    time.sleep(2)
    run.fault()
    leaver.start()
    with run.system.client() as client:
        for _ in range(8):
            time.sleep(1)
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")  # type: ignore[no-untyped-call]
    run.healed()
    leaver.join()
    time.sleep(2)
    load.stop()
    run.system.wait_ready()
    run.all_clean()


def partitioned(run: Run) -> None:
    """F14: one worker's packets are held both ways for 30 s, then all arrive."""
    assert run.system.proxy is not None
    load = run.load(8, streamed=1.0)
    time.sleep(3)
    slot = run.system.workers(run.model)[0]
    run.fault()
    run.system.proxy.order("hold", slot.listener)
    time.sleep(30)
    run.system.proxy.order("pass", slot.listener)
    run.healed()
    time.sleep(8)
    load.stop()
    run.system.wait_ready()
    run.all_clean()
    run.gaps_within(5.0)


def replaced_by_its_replica(run: Run) -> None:
    """F15: Redis is killed and its replica promoted at the same address."""
    assert run.system.proxy is not None
    system = run.system
    replicas = _replicas(system)
    second = RedisServer(
        system.folder / "redis-2", system.launcher, replica_of=system.redis, password=system.redis.password
    )
    second.start()
    with contextlib.closing(second.client()) as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to be in step")
    load = run.load(8)
    time.sleep(4)
    run.fault()
    down_at = time.monotonic()
    system.redis.kill()
    time.sleep(0.5)
    with contextlib.closing(second.client()) as client:
        client.replicaof("NO", "ONE")
    assert system.proxy is not None
    system.proxy.order(f"upstream {second.port}")
    system.proxy.order("reset")
    system.redis = second
    run.healed()
    time.sleep(8)
    load.stop()
    _after_restart(run, replicas, down_at)


def _replicas(system: System) -> dict[str, int]:
    return {slot.replica_id: slot.process.pid for slot in system.slots if slot.process.runs}


def _unhealthy(system: System) -> bool:
    return all(gateway.get("/health")[0] == 503 for gateway in system.gateways)


def _ended_well(run: Run) -> None:
    last = [reach(run.system.port, run.book.next()) for _ in range(8)]
    bad = [outcome for outcome in last if outcome.kind is not Kind.CLEAN]
    run.check("afterwards everyone is answered", not bad, first_words(bad))
    for outcome in last:
        run.outcomes.add(outcome)


@contextlib.contextmanager
def _asking(system: System) -> Iterator[list[int]]:
    """Ask for what needs no Redis, all the time, and collect the statuses."""
    statuses: list[int] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.2):
            for gateway in system.gateways:
                statuses.extend(gateway.get(path, timeout_s=1.0)[0] for path in ("/live", "/v1/models"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


def _leave_often(run: Run, times: int) -> None:
    """Open a stream and leave after a little of it."""

    class _LeftError(Exception):
        pass

    def leave(outcome: Outcome, frames: int) -> None:
        if frames > 5:
            raise _LeftError

    for _ in range(times):
        with contextlib.suppress(_LeftError):
            ask(run.system.port(), run.book.next(), on_frame=leave)
