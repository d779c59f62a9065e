"""Every key we keep in Redis. No other module spells one.

| key                              | type   | written by       | read by         | lives                          |
|----------------------------------|--------|------------------|-----------------|--------------------------------|
| celerity:request:{request}       | hash   | all of them      | all of them     | its deadlines, or as it is kept|
| celerity:stream:{request}        | stream | worker, reapers  | gateway, worker | CLAIMED_, then STREAM_TTL_S    |
| celerity:once:{digest}           | string | gateway          | gateway         | ONCE_TTL_S                     |
| celerity:pace:{list}             | hash   | workers          | gateway         | PACE_TTL_S after the last claim|
| celerity:held:{replica}          | set    | worker           | reapers         | CLAIMED_, emptied as work ends |
| celerity:reaping:{replica}       | string | one reaper       | other reapers   | REAPING_TTL_S                  |
| celerity:deadletter:{request}    | hash   | reapers, worker  | operator        | DEAD_LETTER_TTL_S              |
| celerity:deadletters             | zset   | reapers, worker  | operator        | for ever (one; pruned by age)  |
| celerity:wake:{gateway}          | stream | gateway          | same gateway    | GATEWAY_TTL_S, refreshed       |
| celerity:gateway:{gateway}       | string | gateway          | workers         | GATEWAY_TTL_S, refreshed       |
| celerity:control:{replica}       | stream | gateway          | that worker     | CONTROL_TTL_S after the last   |
| celerity:replica:{replica}       | hash   | that worker      | loader, gateway | REPLICA_TTL_S, refreshed       |
| celerity:replicas                | zset   | workers          | reapers, status | for ever (one; the dead reaped)|
| celerity:orders                  | hash   | loader, agents   | agents, loader  | for ever (one; ended ones go)  |
| celerity:loader:lock             | string | loader           | loaders         | LEADS_S of loader.leadership   |
| celerity:loader:epoch            | string | loader           | loaders         | for ever (one number)          |
| celerity:loader:ran              | string | loader           | status          | LOADER_RAN_TTL_S               |
| celerity:loader:calm             | string | loader           | beat            | CALM_S of loader.calm          |
| celerity:loader:off              | string | operator         | loader          | for ever, while the switch is  |
| celerity:loader:again            | string | loaders          | loader          | LEADS_S of loader.leadership   |
| celerity:loadfailures            | hash   | agents, loader   | loader, status  | LOADER_MEMORY_TTL_S            |
| celerity:measured                | hash   | agents           | agents, loader  | MEASURED_TTL_S after the last  |
| celerity:demand:{model}          | string | loader           | loader          | LOADER_MEMORY_TTL_S            |
| celerity:wish:{model}            | string | operator         | loader, status  | LOADER_MEMORY_TTL_S            |
| celerity:asked:{model}           | string | gateway          | loader          | ASKED_TTL_S, until it is ready |
| celerity:outlook:{model}         | string | loader           | gateway, status | OUTLOOK_TTL_S, refreshed       |
| celerity:node:{node}             | hash   | node agent       | loader, status  | NODE_TTL_S, refreshed          |
| celerity:nodes                   | zset   | node agents      | loader, status  | for ever (one; pruned by age)  |
| celerity:bulk:lock               | string | feeder           | feeders         | seconds, refreshed             |
| celerity:bulk:wake               | stream | gateway, tasks   | feeder          | BULK_WAKE_TTL_S, refreshed     |
| celerity:yield:{model}           | zset   | workers          | workers         | YIELD_TTL_S                    |
| model.{model}                    | list   | gateway          | workers         | while work waits (interactive) |
| model.{model}\\x06\\x169           | list   | gateway, feeder  | workers         | while work waits (bulk)        |
| loader                           | list   | beat, whoever    | control workers | while a look is due            |
| node.{node}                      | list   | loader           | node agent      | while a look is due (one)      |
| unacked:{replica}                | hash   | that worker      | reapers         | while it holds messages        |
| unacked_index:{replica}          | zset   | that worker      | nobody          | while it holds messages        |
| unacked_mutex:{replica}          | string | that worker      | that worker     | seconds                        |
| celery-task-meta-{task}          | string | control worker   | whoever called  | result_expires of celeryconfig |
| _kombu.*                         | kombu  | workers          | workers         | kombu's own                    |
"""

from __future__ import annotations

# A stream lives this long from its claim, and from its last record: nobody reads after that.
CLAIMED_STREAM_TTL_S = 7200
STREAM_TTL_S = 60
GATEWAY_TTL_S = 10
CONTROL_TTL_S = 60
ONCE_TTL_S = 86_400
PACE_TTL_S = 60
REAPING_TTL_S = 5
DEAD_LETTER_TTL_S = 7 * 86_400
REPLICA_TTL_S = 20
LOADER_RAN_TTL_S = 3600
LOADER_MEMORY_TTL_S = 86_400
MEASURED_TTL_S = 90 * 86_400
OUTLOOK_TTL_S = 15
# Three times what a client that does not wait is told to stay away.
ASKED_TTL_S = 180
NODE_TTL_S = 3600
REQUEST_GRACE_S = 60
BULK_WAKE_TTL_S = 60
# By then a seat that a bulk request gave up is taken.
YIELD_TTL_S = 1

# Members are replicas, scores the time until which each is alive: milliseconds of Redis' clock.
REPLICAS = "celerity:replicas"
DEAD_LETTERS = "celerity:deadletters"
NODES = "celerity:nodes"
ORDERS = "celerity:orders"
LOADER_LOCK = "celerity:loader:lock"
LOADER_EPOCH = "celerity:loader:epoch"
LOADER_RAN = "celerity:loader:ran"
LOADER_CALM = "celerity:loader:calm"
LOADER_OFF = "celerity:loader:off"
LOADER_AGAIN = "celerity:loader:again"
LOAD_FAILURES = "celerity:loadfailures"
MEASURED = "celerity:measured"
BULK_LOCK = "celerity:bulk:lock"
BULK_WAKE = "celerity:bulk:wake"

# Keys that may stand without a TTL; the integration suite fails on any other.
FOR_EVER = (REPLICAS, NODES, DEAD_LETTERS, ORDERS, LOADER_EPOCH, LOADER_OFF)
# Written by kombu, under names of its own choosing.
KOMBU_PREFIXES = ("_kombu.", "unacked", "model.", "loader", "celery", "default", "node.", "batch", "control")


def request(request_id: str) -> str:
    return f"celerity:request:{request_id}"


def stream(request_id: str) -> str:
    return f"celerity:stream:{request_id}"


def once(digest: str) -> str:
    return f"celerity:once:{digest}"


def pace(list_name: str) -> str:
    return f"celerity:pace:{list_name}"


def held(replica_id: str) -> str:
    return f"celerity:held:{replica_id}"


def reaping(replica_id: str) -> str:
    return f"celerity:reaping:{replica_id}"


def dead_letter(request_id: str) -> str:
    return f"celerity:deadletter:{request_id}"


def wake(gateway_id: str) -> str:
    return f"celerity:wake:{gateway_id}"


def gateway(gateway_id: str) -> str:
    return f"celerity:gateway:{gateway_id}"


def control(replica_id: str) -> str:
    return f"celerity:control:{replica_id}"


def replica(replica_id: str) -> str:
    return f"celerity:replica:{replica_id}"


def demand(model: str) -> str:
    return f"celerity:demand:{model}"


def wish(model: str) -> str:
    return f"celerity:wish:{model}"


def asked(model: str) -> str:
    return f"celerity:asked:{model}"


def outlook(model: str) -> str:
    return f"celerity:outlook:{model}"


def yielding(model: str) -> str:
    return f"celerity:yield:{model}"


def node(node_id: str) -> str:
    return f"celerity:node:{node_id}"


def unacked(replica_id: str) -> str:
    return f"unacked:{replica_id}"


def unacked_index(replica_id: str) -> str:
    return f"unacked_index:{replica_id}"


def unacked_mutex(replica_id: str) -> str:
    return f"unacked_mutex:{replica_id}"
