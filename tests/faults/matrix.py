"""The rows of the fault matrix that the suite runs, in their order."""

from __future__ import annotations

from tests.faults import rows_bulk as bulk
from tests.faults import rows_clients as clients
from tests.faults import rows_delivery as delivery
from tests.faults import rows_gateways as gateways
from tests.faults import rows_long as long
from tests.faults import rows_overload as overload
from tests.faults import rows_redis as redis
from tests.faults import rows_workers as workers
from tests.faults import setups
from tests.faults.matrix_loader import LOADER
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
        setup=setups.THREE,
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
        fault="Redis has no memory left for 12 s",
        client_sees="503 for new requests, an error within 10 s for running ones",
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
        client_sees="its answer, or an error event where it outlasts the drain of its gateway",
        lost="as for the gateways alone",
        setup=setups.DRAINING,
        act=gateways.everything_restarted,
        blast=False,
    ),
)

CLIENTS = (
    Row(
        id="F19",
        fault="clients leave in every phase of a request",
        client_sees="nothing; it has left",
        lost=_NOTHING,
        setup=setups.LEAVING,
        act=clients.leaves_in_every_phase,
    ),
    Row(
        id="F20",
        fault="500 clients connect and leave",
        client_sees="nothing; it has left",
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

DELIVERY = (
    Row(
        id="F6",
        fault="a model cannot be loaded",
        client_sees="503 `model_load_failed`, as an error event where it waited; other models nothing",
        lost=_NOTHING,
        setup=setups.ONE,
        act=delivery.cannot_load,
    ),
    Row(
        id="F7",
        fault="a worker is killed while it loads",
        client_sees="its answer, after the next load",
        lost=_NOTHING,
        setup=setups.ONE_LOADING,
        act=delivery.killed_while_loading,
    ),
    Row(
        id="F23",
        fault="messages are delivered several times",
        client_sees="one answer",
        lost=_NOTHING,
        setup=setups.TWO,
        act=delivery.delivered_twice,
    ),
    Row(
        id="F24",
        fault="no worker for longer than a request may wait",
        client_sees="504 `deadline_exceeded`; nothing runs afterwards",
        lost="requests whose time was over",
        setup=setups.ONE_SMALL,
        act=delivery.expired,
    ),
    Row(
        id="F25",
        fault="the clock of a worker and of a gateway jumps by an hour, ahead and back",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.CLOCKS,
        act=delivery.clock_jumps,
    ),
)

OVERLOAD = (
    Row(
        id="F33",
        fault="ten times as many requests as can be answered",
        client_sees="its answer in time, or 503 with Retry-After within 100 ms",
        lost=_NOTHING,
        setup=setups.ONE_SMALL,
        act=overload.flood,
    ),
    Row(
        id="F34",
        fault="clients that retry by themselves, while the only worker is killed",
        client_sees="its answer",
        lost=_NOTHING,
        setup=setups.ONE,
        act=overload.retry_storm,
    ),
    Row(
        id="F35",
        fault="the disk is full for 12 s",
        client_sees="503 for new requests, an error within 10 s for running ones",
        lost="answers that had begun",
        setup=setups.TWO_AOF,
        act=long.disk_full,
        blast=False,
    ),
    Row(
        id="F36",
        fault="10,000 requests",
        client_sees="its answer",
        lost=_NOTHING,
        setup=setups.ONE_FAST,
        act=long.many_requests,
    ),
    Row(
        id="F37",
        fault="a batch: a worker is killed every 20 s, the bulk worker once",
        client_sees="every row's answer",
        lost=_NOTHING,
        setup=setups.TWO,
        act=bulk.through_kills,
    ),
    Row(
        id="F38",
        fault="a fault drawn by chance every 12 s, for 2 min",
        client_sees="its answer; a broken connection where a gateway dies",
        lost="as the rows above",
        setup=setups.TWO,
        act=long.endurance,
        blast=False,
        cuts_allowed=True,
    ),
)

VLLM = (
    Row(
        id="F1",
        fault="a worker is killed in the middle of answers, every 10 s; another is alive",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.TWO_VLLM,
        act=workers.killed_in_the_middle,
        engine="vllm",
        reuse=True,
    ),
    Row(
        id="F3",
        fault="a worker is killed before the first token, every 10 s",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.TWO_VLLM,
        act=workers.killed_before_the_first_token,
        engine="vllm",
        reuse=True,
    ),
    Row(
        id="F5",
        fault="a worker's engine process is killed, every 10 s; another is alive",
        client_sees=_UNBROKEN,
        lost=_NOTHING,
        setup=setups.TWO_VLLM,
        act=workers.engine_core_killed,
        engine="vllm",
        reuse=True,
    ),
    Row(
        id="F8",
        fault="engines die whenever one request is in them",
        client_sees="500 `engine_failed`, `x-should-retry: false`, after 2 deaths",
        lost="that request, kept as a dead letter",
        setup=setups.TWO_VLLM,
        act=workers.poison_of_a_real_engine,
        engine="vllm",
        reuse=True,
    ),
    Row(
        id="F19",
        fault="clients leave in the middle of an answer",
        client_sees="nothing; it has left",
        lost=_NOTHING,
        setup=setups.TWO_VLLM,
        act=clients.leaves_a_real_engine,
        engine="vllm",
        reuse=True,
    ),
)

ROWS = (*WORKERS, *DELIVERY[:2], *REDIS, *GATEWAYS, *CLIENTS, *DELIVERY[2:], *LOADER, *OVERLOAD, *VLLM)
