"""What a load took is known at the next one: measured by an agent, kept in Redis, used by all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tasks import keys
from tasks.records.load_failures import LoadFailureStore
from tasks.records.measurements import MeasurementStore
from tasks.records.nodes import NodeStore
from tests.tasks.fake_launcher import FakeReplica
from tests.tasks.loader_site import LoaderSite, Machine
from tests.workers.reference_models import CONFIGS, write_model
from workers.devices import DeviceKind
from workers.estimate.measured import Measured
from workers.placement.facts import Need

pytestmark = pytest.mark.integration

CPU = DeviceKind.CPU
KV_MIB = 5


# This process itself may have grown to any size by the tests before.
SLEEPERS: list[subprocess.Popen[bytes]] = []


@pytest.fixture(scope="module", autouse=True)
def sleeper() -> Iterator[None]:
    # Of more than the cache it is said to have, of its own, and all of it before anybody looks.
    program = "import signal; held = b'x' * (64 << 20); print('up', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        SLEEPERS.append(process)
        yield
        SLEEPERS.pop().kill()


@pytest.fixture
def site(client: redis.Redis, tmp_path: Path) -> LoaderSite:
    model = write_model(tmp_path / "qwen", CONFIGS["Qwen2.5-0.5B-Instruct"])
    models = f"models:\n  m: {{path: {model}, max_model_len: 4096}}\n  s: {{engine: sim}}\n"
    return LoaderSite(client, tmp_path, models)


@pytest.fixture
def machine(site: LoaderSite) -> Machine:
    return site.machine(memory_mib=6000)


def loaded(site: LoaderSite, machine: Machine, model: str = "m", *, took_s: float = 7.0) -> FakeReplica:
    """Have a replica come up that takes what a process that sleeps takes."""
    site.ask(model)
    site.tick()
    machine.turn()
    site.answered(model)
    replica = machine.launcher.one(model)
    replica.pid = SLEEPERS[-1].pid
    machine.up(model, ready_at=replica.started_at + took_s, kv_mib=KV_MIB)
    return replica


def needs(site: LoaderSite, model: str = "m") -> tuple[Need, ...]:
    return NodeStore(site.client).of("n").needs[model]


def known(site: LoaderSite, model: str = "m") -> Measured:
    return MeasurementStore(site.client).all()[model][CPU]


def test_the_next_estimate_is_what_the_last_load_took(site: LoaderSite, machine: Machine) -> None:
    (estimated, *_) = needs(site)
    loaded(site, machine)
    seen = known(site)
    assert seen.load_s == pytest.approx(7.0, abs=0.1)
    assert seen.other_mib is not None
    assert 0 < seen.other_mib < estimated.mib
    (measured, *_) = needs(site)
    assert measured.mib < estimated.mib
    assert 0 < site.client.ttl(keys.MEASURED) <= keys.MEASURED_TTL_S


def test_a_worker_of_another_node_is_told_the_cache_that_the_measurement_leaves(
    site: LoaderSite, machine: Machine
) -> None:
    first, seen = loaded(site, machine), known(site)
    first.leaves(site.client)
    machine.turn()
    LoadFailureStore(site.client).forget("m")
    second = loaded(site, site.machine("o", memory_mib=6000))
    told, reserved = (int(second.command.env[f"CELERITY_{name}_MIB"]) for name in ("KV", "RESERVED"))
    assert told == reserved - (seen.other_mib or 0)


def test_a_load_that_nobody_saw_the_beginning_of_is_not_timed(site: LoaderSite, machine: Machine) -> None:
    replica = loaded(site, machine)
    site.client.delete(keys.MEASURED)
    machine.restart_agent()
    replica.speaks(site.client, ready_at=time.time() - 3600, kv_mib=KV_MIB)
    machine.turn()
    assert known(site).load_s is None
    assert known(site).other_mib is not None


def test_a_replica_is_measured_when_it_is_ready_and_not_at_every_turn(site: LoaderSite, machine: Machine) -> None:
    loaded(site, machine)
    before = known(site)
    site.client.delete(keys.MEASURED)
    machine.turn()
    assert MeasurementStore(site.client).all() == {}
    assert before.other_mib is not None


def test_of_a_simulated_model_only_the_time_is_kept(site: LoaderSite, machine: Machine) -> None:
    loaded(site, machine, "s", took_s=3.0)
    assert known(site, "s").other_mib is None
    assert known(site, "s").load_s == pytest.approx(3.0, abs=0.1)


def test_what_another_release_wrote_is_passed_over(client: redis.Redis) -> None:
    store = MeasurementStore(client)
    client.hset(keys.MEASURED, mapping={"cpu:a": b"{", "cpu:b": b'{"model": "b"}', "cpu:c": b"[]"})
    seen = Measured(model="m", kind=CPU, load_s=2.0)
    assert store.note(seen) == seen
    assert store.all() == {"m": {CPU: seen}}
    assert store.note(Measured(model="m", kind=CPU, load_s=4.0)).load_s == 3.0
