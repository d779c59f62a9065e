"""The rows of the fault matrix that the suite runs, in their order."""

from __future__ import annotations

from tests.faults import rows_clients as clients
from tests.faults import rows_gateways as gateways
from tests.faults import rows_redis as redis
from tests.faults import rows_workers as workers
from tests.faults import setups
from tests.faults.row import Row

_NOTHING = "nothing"
_UNBROKEN = "one unbroken answer"

WORKERS = (
    Row(
        id="F1",
        fault="a worker is killed in the middle of answers, every 10 s; another is alive",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.TWO,
        act=workers.killed_in_the_middle,
    ),
    Row(
        id="F1",
        fault="the same, in the middle of structured output",
        client_sees="an error event `engine_failed`; never spliced JSON",
        lost="the answers that had begun",
        setup=setups.TWO,
        act=workers.structured_output,
    ),
    Row(
        id="F2",
        fault="the only worker is killed",
        client_sees="one unbroken answer, as late as the next worker is ready",
        lost=_NOTHING,
        setup=setups.ONE,
        act=workers.only_worker_killed,
    ),
    Row(
        id="F3",
        fault="a worker is killed before the first token, every 10 s",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.TWO_SLOW,
        act=workers.killed_before_the_first_token,
    ),
    Row(
        id="F4",
        fault="a worker stands still for 12 s (SIGSTOP) and goes on",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.TWO,
        act=workers.stopped_and_continued,
    ),
    Row(
        id="F4",
        fault="an engine's loop hangs for ever",
        client_sees="one unbroken answer; `engine_failed` for a request that hangs two engines",
        lost="the request that hangs them",
        setup=setups.TWO,
        act=workers.hung_for_ever,
    ),
    Row(
        id="F8",
        fault="a request kills every engine that takes it up, before a token",
        client_sees="500 `engine_failed`, `x-should-retry: false`, after 2 deaths; its neighbours nothing",
        lost="that request, kept as a dead letter",
        setup=setups.TWO,
        act=workers.poison,
    ),
    Row(
        id="F8",
        fault="a request kills every engine after a few tokens",
        client_sees="an error event after the third engine; its neighbours nothing",
        lost="the rest of that answer",
        setup=setups.TWO,
        act=workers.moved_too_often,
    ),
)

REDIS = (
    Row(
        id="F9",
        fault="Redis restarts empty",
        client_sees="an error within 10 s, or nothing where nothing had been sent",
        lost="answers that had begun; kept requests",
        setup=setups.TWO,
        act=redis.restarted_without_aof,
        blast=False,
    ),
    Row(
        id="F10",
        fault="Redis is killed and restarts with its append-only file",
        client_sees="as F9, or nothing",
        lost="at most what was accepted in the last second",
        setup=setups.TWO_AOF,
        act=redis.restarted_with_aof,
        blast=False,
    ),
    Row(
        id="F11",
        fault="Redis freezes for 5 s, later answers 500 ms late",
        client_sees="the same answers, later; or 503",
        lost=_NOTHING,
        setup=setups.TWO_PROXIED,
        act=redis.frozen_and_slow,
        blast=False,
    ),
    Row(
        id="F12",
        fault="Redis has no memory left for 6 s",
        client_sees="503 for new requests, an error for running ones",
        lost="answers that had begun",
        setup=setups.TWO,
        act=redis.full,
        blast=False,
    ),
    Row(
        id="F13",
        fault="all connections to Redis are cut every second",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.TWO,
        act=redis.connections_killed,
        blast=False,
    ),
    Row(
        id="F14",
        fault="a worker is cut off from Redis for 30 s, without a RST",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.TWO_PROXIED,
        act=redis.partitioned,
    ),
    Row(
        id="F15",
        fault="Redis is replaced by its replica",
        client_sees="as F10",
        lost="what the replica had not got yet",
        setup=setups.TWO_PROXIED,
        act=redis.replaced_by_its_replica,
        blast=False,
    ),
)

GATEWAYS = (
    Row(
        id="F16",
        fault="a gateway is killed with 50 resumable streams open",
        client_sees="a broken connection; the rest of the answer after a reconnect to any gateway",
        lost="answers that were not resumable",
        setup=setups.TWO,
        act=gateways.killed,
        blast=False,
        cuts_allowed=True,
    ),
    Row(
        id="F17",
        fault="rolling restart of the gateways, with streams that outlast the drain",
        client_sees="its answer, or an error event; the rest of a resumable one after a reconnect",
        lost="answers that were not resumable and outlasted the drain",
        setup=setups.DRAINING,
        act=gateways.rolling_restart_of_gateways,
        blast=False,
    ),
    Row(
        id="F18",
        fault="rolling restart of the workers, with streams that outlast the drain",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.DRAINING,
        act=gateways.rolling_restart_of_workers,
    ),
    Row(
        id="F18",
        fault="a deploy: all gateways, then all workers",
        client_sees="its answer",
        lost=_NOTHING,
        setup=setups.DRAINING,
        act=gateways.everything_restarted,
        blast=False,
    ),
)

CLIENTS = (
    Row(
        id="F19",
        fault="clients leave in every phase of a request",
        client_sees="-",
        lost=_NOTHING,
        setup=setups.LEAVING,
        act=clients.leaves_in_every_phase,
    ),
    Row(
        id="F20",
        fault="500 clients connect and leave",
        client_sees="-",
        lost=_NOTHING,
        setup=setups.TWO,
        act=clients.come_and_leave,
    ),
    Row(
        id="F21",
        fault="clients never read their answers",
        client_sees="the connection is ended at the limit on a write",
        lost=_NOTHING,
        setup=setups.NOT_READING,
        act=clients.do_not_read,
    ),
    Row(
        id="F22",
        fault="clients send a header or a body a byte a second",
        client_sees="a closed connection, or 408",
        lost=_NOTHING,
        setup=setups.SLOW_CLIENTS,
        act=clients.speak_slowly,
    ),
)

ROWS = (*WORKERS, *REDIS, *GATEWAYS, *CLIENTS)
