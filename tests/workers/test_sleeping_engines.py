"""Engines that sleep: what they keep of their memory, and what becomes of those who ask meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.workers.reference_models import CONFIGS, write_model
from workers.devices import DeviceKind
from workers.engine.base import Engine, Job, Result, SleepNeed
from workers.engine.sim import SimEngine
from workers.engine.vllm_memory import sleep_need
from workers.estimate.needs import estimate
from workers.model_folder import read
from workers.registry import ModelSpec, SimSpec

CHAT = Job(id="r", endpoint="chat", body=b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":2}', stream=False)


def sim(**fields: float | None) -> Engine:
    return SimEngine(ModelSpec(id="s", engine="sim", sim=SimSpec(**fields)))  # type: ignore[arg-type]  # by name


async def last(engine: Engine) -> Result:
    pieces = [piece async for piece in engine.run(CHAT)]
    assert isinstance(pieces[-1], Result)
    return pieces[-1]


def test_a_simulated_engine_sleeps_only_where_its_entry_says_what_it_keeps() -> None:
    assert sim().sleep_need is None
    assert sim(sleep_mib=30).sleep_need == SleepNeed(device_mib=30, ram_mib=0)


def test_who_asks_a_sleeping_engine_is_answered_once_it_is_awake() -> None:
    async def scenario() -> None:
        engine = sim(sleep_mib=0, sleep_s=0, wake_s=0)
        await engine.sleep()
        asked = asyncio.create_task(last(engine))
        done, _ = await asyncio.wait([asked], timeout=0.02)
        assert not done
        await engine.wake()
        assert (await asked).completion_tokens == 2

    asyncio.run(scenario())


def test_waking_an_engine_that_is_awake_changes_nothing() -> None:
    async def scenario() -> None:
        engine = sim(sleep_mib=0, wake_s=3600)
        await asyncio.wait_for(engine.wake(), timeout=5)
        assert (await last(engine)).completion_tokens == 2

    asyncio.run(scenario())


def test_a_sleeping_vllm_keeps_its_weights_in_memory_and_its_context_on_the_device(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", CONFIGS["Qwen2.5-14B-Instruct-AWQ"])
    spec = ModelSpec(id="m", path=str(path))
    terms = {term.name: term.mib for term in estimate(spec, read(path, tmp_path), DeviceKind.CUDA).terms}
    kept = sleep_need(spec, DeviceKind.CUDA)
    assert kept == SleepNeed(device_mib=terms["CUDA graphs"] + terms["runtime"], ram_mib=terms["weights"])


def test_of_weights_that_are_not_here_nobody_knows_what_they_take_asleep() -> None:
    assert sleep_need(ModelSpec(id="m", path="Somebody/Model", memory_mib=9000), DeviceKind.CUDA) is None
