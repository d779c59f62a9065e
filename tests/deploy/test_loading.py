"""`celerity load`, `unload` and `loader`: what a look means, and the commands against the real loader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from deploy.cli import main
from deploy.load_display import display, doing
from deploy.loading import load_end, unload_end
from tasks import keys
from tasks.connections import command_client
from tasks.loader.operations import Look
from tasks.loader.tick import Loader
from tasks.queues import LOADER_QUEUE
from tasks.records.load_failures import LoadFailureStore
from tasks.records.nodes import NodeFacts, NodeStore, redis_time
from tasks.records.orders import Order, OrderStore
from tasks.records.replicas import ReplicaFacts, ReplicaRecord, ReplicaState
from tasks.records.wishes import WishStore
from tests.stack import RedisServer
from workers.devices import Device, DeviceKind
from workers.placement.facts import Need
from workers.placement.limits import Limits
from workers.registry import Registry

MODELS = """
models:
  a: {engine: sim, aliases: [light], sim: {memory_mib: 1000}}
  b: {engine: sim, pinned: true, sim: {memory_mib: 1000}}
  c: {engine: sim, pinned: true, sim: {memory_mib: 1000}}
  broken: {engine: sim, sim: {memory_mib: 1000}}
  huge: {engine: sim, sim: {memory_mib: 9000}}
"""
REPLICA = {"in_flight": 3}


def look(seen: bool = True, loader: dict[str, Any] | None = None, **entry: Any) -> Look:
    nothing = {"state": "unloaded", "outlook": None, "reason": None, "progress_percent": None, "wish": "load"}
    return Look(
        entry=nothing | {"failures": None, "replicas": []} | entry,
        loader={"automatic": True, "last_run_age_s": 1.0} | (loader or {}),
        seen=seen,
    )


@pytest.mark.parametrize(
    ("seen", "entry", "well"),
    [
        (False, {"state": "ready"}, True),
        (False, {"outlook": "no_capacity"}, None),
        (False, {"failures": {"given_up": True, "reason": "x"}}, None),
        (False, {"wish": None}, None),
        (True, {}, None),
        (True, {"state": "loading", "outlook": "loading", "wish": None}, None),
        (True, {"state": "loading", "wish": None, "replicas": [REPLICA]}, None),
        (True, {"outlook": "making_room"}, None),
        (True, {"outlook": "in_turn"}, None),
        (True, {"outlook": "backing_off", "failures": {"given_up": False, "reason": "x"}}, None),
        (True, {"state": "failed"}, None),
        (True, {"outlook": "no_capacity"}, False),
        (True, {"outlook": "cannot_run"}, False),
        (True, {"outlook": "switched_off"}, False),
        (True, {"outlook": "failed"}, False),
        (True, {"failures": {"given_up": True, "reason": "x"}}, False),
        (True, {"failures": {"given_up": True, "reason": "x"}, "replicas": [REPLICA]}, None),
        (True, {"wish": None}, False),
        (True, {"wish": "unload"}, False),
    ],
)
def test_how_a_load_came_out(seen: bool, entry: dict[str, Any], well: bool | None) -> None:
    end = load_end(look(seen, **entry))
    assert (None if end is None else end.well) is well


@pytest.mark.parametrize(
    ("seen", "entry", "well"),
    [
        (True, {"replicas": []}, True),
        (False, {"replicas": [REPLICA]}, None),
        (True, {"replicas": [REPLICA], "wish": "unload"}, None),
        (False, {"replicas": [REPLICA], "wish": None}, None),
        (True, {"replicas": [REPLICA], "wish": None}, False),
        (True, {"replicas": [REPLICA], "wish": "load"}, False),
    ],
)
def test_how_an_unload_came_out(seen: bool, entry: dict[str, Any], well: bool | None) -> None:
    end = unload_end(look(seen, **entry))
    assert (None if end is None else end.well) is well


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (look(False), "waiting for the loader"),
        (look(False, {"last_run_age_s": 40.4}), "the loader has not run for 40 s"),
        (look(loader={"last_run_age_s": None}), "the loader has not run for the last hour"),
        (look(reason="others leave for it"), "others leave for it"),
        (look(reason="its turn comes", loader={"automatic": False}), "`celerity loader on`"),
        (look(reason="it loads", state="loading", loader={"automatic": False}), "it loads"),
        (look(wish="unload", replicas=[REPLICA, REPLICA]), "finishing 6 requests"),
        (look(wish="unload", replicas=[REPLICA | {"in_flight": 0}]), "its replicas are ending"),
        (look(state="loading"), "loading"),
    ],
)
def test_what_happens_is_said_in_a_few_words(found: Look, expected: str) -> None:
    assert expected in doing(found)


def test_without_a_terminal_a_line_is_told_when_something_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    failures = {"count": 1, "given_up": False, "reason": "x"}
    looks = [
        (look(False), 0.0),
        (look(state="loading", outlook="loading", reason="it loads", progress_percent=1), 1.0),
        (look(state="loading", outlook="loading", reason="it loads", progress_percent=20), 2.0),
        (look(state="loading", outlook="loading", reason="it loads", progress_percent=30), 3.0),
        (look(outlook="backing_off", reason="x; the next try is in 5 s", failures=failures), 4.0),
        (look(outlook="backing_off", reason="x; the next try is in 4 s", failures=failures), 5.0),
        (look(outlook="backing_off", reason="x; the next try is in 1 s", failures=failures | {"count": 2}), 6.0),
        (look(outlook="backing_off", reason="x; the next try is in 0 s", failures=failures | {"count": 2}), 21.0),
        (look(loader={"last_run_age_s": 26.0}), 22.0),
        (look(loader={"last_run_age_s": 27.0}), 23.0),
    ]
    with display("m") as show:
        for one, elapsed_s in looks:
            show(one, elapsed_s)
    assert capsys.readouterr().err.splitlines() == [
        "m: waiting for the loader (0 s)",
        "m: it loads, 1 % (1 s)",
        "m: it loads, 30 % (3 s)",
        "m: x; the next try is in 5 s (4 s)",
        "m: x; the next try is in 1 s (6 s)",
        "m: x; the next try is in 0 s (21 s)",
        "m: the loader has not run for 26 s; do beat and the control worker run? (22 s)",
    ]


class Site:
    """The real loader, and one node of 2,000 MiB whose replicas are ready, or broken, as soon as they are ordered."""

    def __init__(self, client: redis.Redis, registry: Registry) -> None:
        self._client = client
        self._registry = registry
        self._loader = Loader(client, Limits(residency_loads=0.0))
        self._orders = OrderStore(client)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._beat()
            self._loader.tick(self._registry)
            for order in self._orders.all():
                self._follow(order)
            self._client.brpop([LOADER_QUEUE], timeout=0.05)

    def _beat(self) -> None:
        needs = {id_: (Need(DeviceKind.CPU, spec.sim.memory_mib),) for id_, spec in self._registry.models.items()}
        cpu = Device(id="cpu", kind=DeviceKind.CPU, total_mib=2000, free_mib=2000)
        NodeStore(self._client).beat(NodeFacts(id="n", devices=(cpu,), needs=needs))

    def _follow(self, order: Order) -> None:
        record, now = ReplicaRecord(self._client), redis_time(self._client)
        if order.told is not ReplicaState.STARTING:
            record.remove(order.replica)
            self._orders.remove(order.replica, node=order.node)
        elif order.model == "broken":
            LoadFailureStore(self._client).failed(
                "broken", node="n", reason="its weights lack", permanent=True, now=now
            )
            self._orders.remove(order.replica, node=order.node)
        else:
            record.beat(ready(order, now), frozenset())
            self._client.zadd(keys.REPLICAS, {order.replica: (now + 60) * 1000})


def ready(order: Order, now: float) -> ReplicaFacts:
    return ReplicaFacts(
        id=order.replica,
        model=order.model,
        node="n",
        device="cpu",
        state=ReplicaState.READY,
        pid=1,
        in_flight=0,
        seats=8,
        kv_usage=0.0,
        memory_mib=1000,
        started_at=order.ordered_at,
        ready_at=order.ordered_at,
        last_used_at=None,
        heartbeat_at=now,
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    return path


@pytest.fixture
def site(server: RedisServer, client: redis.Redis, models: Path) -> Iterator[Site]:
    own = command_client(server.url)
    with Site(own, Registry.load(models)) as running:
        yield running
    own.close()


def run(server: RedisServer, models: Path, *args: str) -> Result:
    env = {"CELERITY_STATE_DIR": str(models.parent), "CELERITY_REDIS_URL": server.url, "CELERITY_MODELS": str(models)}
    return CliRunner().invoke(main, args, env=env)


@pytest.mark.integration
def test_a_model_is_loaded_and_unloaded(server: RedisServer, client: redis.Redis, site: Site, models: Path) -> None:
    for pinned in ("b", "c"):
        assert run(server, models, "unload", pinned).exit_code == 0
    loaded = run(server, models, "load", "light")
    assert loaded.exit_code == 0, loaded.output
    assert loaded.stdout.startswith("a is ready (")
    gone = run(server, models, "unload", "a")
    assert gone.exit_code == 0, gone.output
    assert gone.stdout.splitlines()[-1].startswith("a is unloaded (")
    assert client.hlen(keys.ORDERS) == 0


@pytest.mark.integration
def test_a_pinned_model_stays_away_until_it_is_loaded(
    server: RedisServer, client: redis.Redis, site: Site, models: Path
) -> None:
    assert run(server, models, "load", "b").exit_code == 0
    gone = run(server, models, "unload", "b")
    assert "Though it is pinned, it stays away" in gone.stdout
    assert run(server, models, "load", "c").exit_code == 0
    assert {order.model for order in OrderStore(client).all()} == {"c"}
    assert run(server, models, "load", "b").exit_code == 0
    assert WishStore(client).of(["b"]) == {}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("huge", "huge: it needs 9000 MiB"),
        ("a", "a: no device can be freed for it now"),
        ("nobody", "there is no model or alias 'nobody'"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    server: RedisServer, site: Site, models: Path, model: str, expected: str
) -> None:
    for pinned in ("b", "c"):
        assert run(server, models, "load", pinned).exit_code == 0
    refused = run(server, models, "load", model)
    assert refused.exit_code == 1
    assert expected in refused.stderr
    assert ("The order stands" in refused.stderr) is (model == "a")


@pytest.mark.integration
def test_a_load_that_fails_says_why_every_time(server: RedisServer, site: Site, models: Path) -> None:
    assert run(server, models, "unload", "b").exit_code == 0
    for _ in range(2):
        failed = run(server, models, "load", "broken")
        assert failed.exit_code == 1
        assert "its weights lack" in failed.stderr


@pytest.mark.integration
def test_nobody_waits_who_does_not_want_to(server: RedisServer, client: redis.Redis, models: Path) -> None:
    given = run(server, models, "load", "a", "--no-wait")
    assert (given.exit_code, given.stdout[:11]) == (0, "a: ordered.")
    assert run(server, models, "unload", "c", "--no-wait").exit_code == 0
    assert {model: wish.value for model, wish in WishStore(client).of(["a", "b", "c"]).items()} == {
        "a": "load",
        "c": "unload",
    }


@pytest.mark.integration
def test_the_switch_is_turned(server: RedisServer, client: redis.Redis, models: Path) -> None:
    assert "celerity load" in run(server, models, "loader", "off").stdout
    assert not WishStore(client).automatic
    assert run(server, models, "loader", "on").exit_code == 0
    assert WishStore(client).automatic


def test_without_redis_it_is_one_line(tmp_path: Path, models: Path) -> None:
    env = {"CELERITY_REDIS_URL": f"unix://{tmp_path}/none.sock", "CELERITY_MODELS": str(models)}
    for args in (("load", "a"), ("unload", "a"), ("loader", "off")):
        result = CliRunner().invoke(main, args, env=env)
        assert result.exit_code == 1
        assert result.stderr == "Error: Redis does not answer; is `celerity up` still starting?\n"
