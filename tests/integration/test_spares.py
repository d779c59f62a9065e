"""A real engine worker that was forked, not executed: it serves, drains and ends as any other."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import keys
from tasks.messages import Done
from tests.stack import Stack, chat, read
from tests.waiting import wait_until
from workers.launcher.base import Replica, Resources, new_replica_id, worker_command, worker_spares
from workers.launcher.detached import DetachedLauncher
from workers.launcher.ending import end_all
from workers.launcher.site import Site
from workers.launcher.zygote import Zygote
from workers.registry import ModelSpec

pytestmark = pytest.mark.integration


@pytest.fixture
def launcher(running: Stack, tmp_path: Path) -> Iterator[DetachedLauncher]:
    launcher = DetachedLauncher(Site(state_dir=tmp_path, node="n"))
    (wanted,) = worker_spares({"sim"}, running.settings.to_env())

    def ready() -> bool:
        launcher.prepare([wanted])
        return launcher._zygotes.ready(wanted) is not None

    wait_until(ready, "the spare to be ready", timeout_s=60)
    yield launcher
    end_all(launcher, grace_s=0)
    launcher.close()


def start(launcher: DetachedLauncher, running: Stack, model: str = "sim") -> Replica:
    command = worker_command(ModelSpec(id=model, engine="sim"), new_replica_id(model), running.settings.to_env())
    replica = launcher.start(command, Resources())
    assert isinstance(replica._parent, Zygote)
    with contextlib.closing(running.client()) as client:

        def ready() -> bool:
            assert replica.exit_code() is None, "\n".join(replica.tail(50))
            return client.hget(keys.replica(replica.name), "state") == b"ready"

        wait_until(ready, "the worker to be ready", timeout_s=60)
        assert client.hget(keys.replica(replica.name), "pid") == str(replica.pid).encode()
    return replica


def test_two_forked_workers_keep_their_messages_apart(running: Stack, launcher: DetachedLauncher) -> None:
    dispatcher = running.dispatcher()
    both = [start(launcher, running, "slow") for _ in range(2)]
    ask = chat("x", model="slow", max_tokens=400, stream=False, gateway=dispatcher.gateway_id)
    with contextlib.closing(running.client()) as client:
        answers = [dispatcher.submit(dataclasses.replace(ask, id=f"req_{number}"), max_depth=9) for number in range(4)]
        wait_until(
            lambda: [client.hlen(keys.unacked(replica.name)) for replica in both] == [2, 2],
            "each to have taken as many as it has seats",
        )
        both[0].kill()
        wait_until(lambda: both[0].exit_code() is not None, "it to end")
        assert client.hlen(keys.unacked(both[1].name)) == 2
    for answer in answers:
        answer.close()


def test_a_forked_worker_answers_and_ends_well(running: Stack, launcher: DetachedLauncher) -> None:
    replica = start(launcher, running)
    dispatcher = running.dispatcher()
    events = read(dispatcher.submit(chat("hello", gateway=dispatcher.gateway_id), max_depth=10))
    assert isinstance(events[-1], Done)
    replica.terminate()
    wait_until(lambda: replica.exit_code() is not None, "the worker to stop")
    assert replica.exit_code() == 0
    with contextlib.closing(running.client()) as client:
        assert not client.exists(keys.replica(replica.name))
