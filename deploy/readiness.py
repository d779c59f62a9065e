"""Whether a request would be answered now: asked of the gateway and of Redis, as a client would find out."""

from __future__ import annotations

import http.client
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus

import redis

from deploy.model_news import Sight
from tasks import keys
from tasks.records.load_failures import LoadFailureStore
from tasks.records.outlooks import OutlookStore
from tasks.records.replicas import ReplicaState, ReplicaStore
from workers.registry import ModelSpec

_ANSWER_WITHIN_S = 2.0
# What one listens on is not always what one can connect to.
_CONNECT_TO = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def base_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def gateway_answers(host: str, port: int) -> bool:
    """Say whether /health is 200, which it is only while Redis answers too."""
    return answers_ok(_CONNECT_TO.get(host, host), port, "/health")


def answers_ok(host: str, port: int, path: str) -> bool:
    """Say whether a GET is answered with 200 at once."""
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_WITHIN_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def models_now(client: redis.Redis, node: str | None, pinned: Sequence[ModelSpec] = ()) -> Sight | None:
    """Return how models are; None while Redis does not answer, or the loader has not seen `node` yet.

    None for `node`: it was seen before.
    """
    try:
        if node is not None and not (client.exists(keys.LOADER_RAN) and client.zscore(keys.NODES, node) is not None):
            return None
        ready = Counter(facts.model for facts in ReplicaStore(client).all() if facts.state is ReplicaState.READY)
        failures = {it.model: it for it in LoadFailureStore(client).all()}
        said = OutlookStore(client).latest([spec.id for spec in pinned])
        # Of one whose loads failed, the failures tell more.
        refused = {id_: it.text for id_, it in said.items() if it.code and id_ not in {*ready, *failures}}
        return Sight(ready, failures, refused)
    except (redis.RedisError, OSError):
        return None
