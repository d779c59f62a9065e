"""What a request and a token cost, in operations: times depend on the machine, these do not.

Requests come one after the other, so that nothing is shared between them: the dearest case.
"""

from __future__ import annotations

import http.client
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.stack import GatewayProcess, Stack, Worker

pytestmark = pytest.mark.integration

REQUESTS = 20
TOKENS = 64

# Per request, in the gateway. A read ends with each of: the wake, the claim, the end.
GATEWAY = {"ADMIT": 1.0, "json parses": 1.0, "writes to clients": 1.0, "XREAD": 4.0}
# Nothing else is asked of Redis for a request; what runs beside them is not counted.
FOR_NO_REQUEST = {"HGETALL", "HMGET", "XREVRANGE", "XADD", "EVAL", "LPUSH", "SCRIPT LOAD"}

# Per one-token request, in Redis, whoever asks; what a script calls is counted as well. The four scripts admit it,
# note its message with the news that the one before is answered, claim it, and end it.
REDIS = {"evalsha": 4, "brpop": 1, "lpush": 1, "rpop": 0, "xadd": 3, "hset": 3, "hgetall": 1, "hdel": 1, "expire": 5}
# What runs beside the requests, for as long as they take.
BESIDE = 15


@pytest.fixture(scope="module")
def gateway(running: Stack, sim: Worker) -> GatewayProcess:
    return running.gateway(Path(__file__).with_name("counting_gunicorn.py"))


def counts(gateway: GatewayProcess) -> Counter[str]:
    connection = gateway.connect()
    connection.request("GET", "/counts")
    found = Counter(json.loads(connection.getresponse().read()))
    connection.close()
    # The answer to this very question has been written meanwhile.
    found["writes to clients"] += 1
    return found


def spent(gateway: GatewayProcess, *, stream: bool, tokens: int) -> Counter[str]:
    """Return what the gateway has done for all requests together."""
    connection = gateway.connect()
    ask(connection, stream=stream, tokens=tokens)  # scripts are loaded and connections made
    before = counts(gateway)
    for _ in range(REQUESTS):
        ask(connection, stream=stream, tokens=tokens)
    after = counts(gateway)
    connection.close()
    after.subtract(before)
    after["writes to clients"] -= 1
    return after


def ask(connection: http.client.HTTPConnection, *, stream: bool, tokens: int) -> None:
    content = {"model": "sim", "messages": [{"role": "user", "content": "count"}], "stream": stream}
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(content | {"max_tokens": tokens}),
        {"Content-Type": "application/json"},
    )
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer


def test_an_answer_in_one_piece_costs_the_gateway_no_more_than_this(gateway: GatewayProcess) -> None:
    found = spent(gateway, stream=False, tokens=1)
    assert {name: found[name] / REQUESTS for name, most in GATEWAY.items() if found[name] > most * REQUESTS} == {}
    assert not {name: found[name] for name in FOR_NO_REQUEST if found[name] >= REQUESTS}


def test_what_was_loaded_is_out_of_the_garbage_collectors_way(gateway: GatewayProcess) -> None:
    found = counts(gateway)
    assert found["objects frozen"] > 5 * found["objects"]


def test_a_streamed_token_costs_one_write_a_record_at_most_and_no_json(gateway: GatewayProcess) -> None:
    found = spent(gateway, stream=True, tokens=TOKENS)
    assert found["ADMIT"] == found["json parses"] == REQUESTS
    # The header goes with the first piece, the end with the last.
    assert found["writes to clients"] <= found["records delta"] + found["records done"]
    # Each read brings a record, or was ended by the request's own wake.
    records = found["records started"] + found["records delta"] + found["records done"]
    assert found["XREAD"] <= records + 2 * REQUESTS
    assert not {name: found[name] for name in FOR_NO_REQUEST if found[name] >= REQUESTS}


def test_a_request_costs_redis_no_more_than_this(running: Stack, gateway: GatewayProcess) -> None:
    connection, client = gateway.connect(), running.client()
    ask(connection, stream=False, tokens=1)
    client.config_resetstat()
    for _ in range(REQUESTS):
        ask(connection, stream=False, tokens=1)
    stats = client.info("commandstats")
    connection.close()
    client.close()
    found = {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in REDIS}
    assert {name: found[name] for name, most in REDIS.items() if found[name] > most * REQUESTS + BESIDE} == {}
    # MULTI and EXEC, with which kombu notes and acknowledges, are gone with its round trips.
    assert stats.get("cmdstat_multi", {"calls": 0})["calls"] < REQUESTS
