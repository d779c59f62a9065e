"""Loader and agents die at every interesting line, and in the midst of loads: nothing is loaded twice or orphaned."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tasks.failpoints import Point
from tasks.gateway.redis_dispatch import RedisDispatcher
from tasks.records.load_failures import LoadFailureStore
from tasks.records.replicas import ReplicaState, ReplicaStore
from tasks.records.wishes import Wish, WishStore
from tests.integration.loader_processes import ALL, NODE, LoaderProcesses, answered
from tests.stack import Stack, stack
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

POINTS: tuple[Point, ...] = get_args(Point)
WHILE_LOADING = [point for point in POINTS if point.startswith("loader_") or point == "agent_launched"]
WHILE_ENDING = [point for point in POINTS if point not in WHILE_LOADING]
BURYING = [point for point in WHILE_ENDING if point != "agent_terminated"]
RECONNECTING = ("agent", "control")
SLOW = ("slow-a", "slow-b", "slow-c")
MODELS = "models:\n" + "".join(
    f"  {name}: {{engine: sim, sim: {{memory_mib: 10, load_s: {load_s}}}}}\n"
    for name, load_s in [
        *((point.replace("_", "-"), 0.2) for point in POINTS),
        *((f"dying-{point.replace('_', '-')}", 0.2) for point in POINTS),
        *((name, 4) for name in SLOW),
        ("after-a-loss", 0.2),
    ]
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("loader")
    env = {"CELERITY_NODE_ID": NODE, "CELERITY_MEMORY_MIB": "4000", "CELERITY_DRAIN_TIMEOUT_S": "10"}
    with stack(folder, MODELS, **env) as started:
        yield started


@pytest.fixture(scope="module")
def loader(running: Stack) -> Iterator[LoaderProcesses]:
    processes = LoaderProcesses(running)
    try:
        processes.start(*ALL)
        processes.ticks(1)
        yield processes
    finally:
        processes.close()


@pytest.fixture
def dispatcher(running: Stack) -> RedisDispatcher:
    return running.dispatcher()


@pytest.mark.parametrize("point", WHILE_LOADING)
def test_a_death_while_a_model_is_loaded(loader: LoaderProcesses, dispatcher: RedisDispatcher, point: Point) -> None:
    name, model = "control" if point.startswith("loader_") else "agent", point.replace("_", "-")
    loader.restart(name, failpoint=point)
    answer = loader.ask(model, dispatcher)
    loader.dies_at_its_failpoint(name)
    loader.start(name)
    answered(answer)
    loader.is_tidy(model, replicas=1)
    assert loader.ever(model) == 1


@pytest.mark.parametrize("point", WHILE_ENDING)
def test_a_death_while_a_model_is_unloaded(loader: LoaderProcesses, dispatcher: RedisDispatcher, point: Point) -> None:
    model = point.replace("_", "-")
    answered(loader.ask(model, dispatcher))
    loader.restart("agent", failpoint=point)
    with contextlib.closing(loader.stack.client()) as client:
        WishStore(client).wish(model, Wish.UNLOAD)
        loader.dies_at_its_failpoint("agent")
        loader.start("agent")
        wait_until(lambda: not loader.replicas(model), "it to be unloaded", timeout_s=30)
        loader.is_tidy(model, replicas=0)
        assert LoadFailureStore(client).all() == [], "it ended as it was told"
    answered(loader.ask(model, dispatcher))
    loader.is_tidy(model, replicas=1)
    assert loader.ever(model) == 2


@pytest.mark.parametrize("point", BURYING)
def test_a_death_while_one_that_died_is_buried(
    loader: LoaderProcesses, dispatcher: RedisDispatcher, point: Point
) -> None:
    model = f"dying-{point.replace('_', '-')}"
    answered(loader.ask(model, dispatcher))
    loader.restart("agent", failpoint=point)
    with contextlib.closing(loader.stack.client()) as client:
        (replica,) = [it for it in ReplicaStore(client).all() if it.model == model]
        # Its heartbeat says so a moment after it has begun to take work.
        wait_until(
            lambda: ReplicaStore(client).of([replica.id])[0].state is ReplicaState.READY, "it to say it is ready"
        )
        os.kill(replica.pid, signal.SIGKILL)
        answer = loader.ask(model, dispatcher)
        loader.dies_at_its_failpoint("agent")
        loader.start("agent")
        answered(answer)
        loader.is_tidy(model, replicas=1)
        assert replica.id not in loader.replicas(model)
        assert LoadFailureStore(client).all() == [], "it has loaded again since"


def test_everybody_dies_during_loads(loader: LoaderProcesses, dispatcher: RedisDispatcher) -> None:
    """Loader and agent are killed, and a second beat comes, while three models load."""
    answers = [loader.ask(model, dispatcher) for model in SLOW]
    wait_until(lambda: any(loader.replicas(model) for model in SLOW), "the first load", timeout_s=30)
    loader.start("second beat")
    loader.restart("control")
    loader.restart("agent")
    wait_until(lambda: all(loader.ordered(model) for model in SLOW), "all to be ordered", timeout_s=60)
    loader.restart("control")
    loader.restart("agent")
    for answer in answers:
        answered(answer)
    for model in SLOW:
        loader.is_tidy(model, replicas=1)
        assert loader.ever(model) == 1
    loader.kill("second beat")


def test_a_restart_of_redis_ends_neither_loader_nor_agent(
    running: Stack, loader: LoaderProcesses, dispatcher: RedisDispatcher
) -> None:
    """They wait for it, and load what is asked for once it is back, empty as it is."""
    running.server.kill()
    wait_until(lambda: loader.logged("redis is lost", *RECONNECTING), "the loss to be noticed")
    wait_until(lambda: loader.logged("the loader cannot be asked", "beat"), "beat to notice as well")
    # Both try again every second: what they do between two tries is what once ended them.
    noticed_at = time.monotonic()
    wait_until(lambda: time.monotonic() - noticed_at > 2.5, "both to have tried in vain")
    running.server.start()
    wait_until(lambda: loader.logged("redis is back", *RECONNECTING), "both to be back", timeout_s=30)
    assert [loader.services[name].poll() for name in RECONNECTING] == [None, None]
    loader.ticks(1)
    answered(loader.ask("after-a-loss", dispatcher))
    loader.is_tidy("after-a-loss", replicas=1)
