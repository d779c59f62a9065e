"""One run of a load: warming up, measuring, and waiting for what is still open."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import Callable

import uvloop

from deploy.bench.loads import ClosedLoad, Load, OpenLoad
from deploy.bench.meter import Meter
from deploy.bench.plan import Plan
from deploy.gateway_http import Address

_LOOK_S = 0.5


def run(plan: Plan, address: Address, meter: Meter, tell: Callable[[str], None]) -> bool:
    """Fill `meter` until the plan is done; `tell` hears now and then how far it is. Return False after a Ctrl-C."""
    _raise_limit_of_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(plan, address, meter, tell))


async def _run(plan: Plan, address: Address, meter: Meter, tell: Callable[[str], None]) -> bool:
    load: Load = (ClosedLoad if plan.rate is None else OpenLoad)(plan, address, meter)
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    watching = loop.create_task(_watch(load, tell))
    try:
        if plan.warmup_s:
            load.begin()
            await _either(interrupted, None, plan.warmup_s)
        if not interrupted.is_set():
            meter.open(time.perf_counter(), time.process_time())
            if not plan.warmup_s:
                load.begin()
            await _either(interrupted, load.asked_enough, plan.seconds)
        load.stop()
        if plan.requests is None or interrupted.is_set():
            meter.close(time.perf_counter(), time.process_time())
        while load.waiting() and not interrupted.is_set():
            await _either(interrupted, None, 0.01)
        if meter.measuring:
            meter.close(time.perf_counter(), time.process_time())
    finally:
        watching.cancel()
        load.close()
        loop.remove_signal_handler(signal.SIGINT)
    return not interrupted.is_set()


async def _watch(load: Load, tell: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(_LOOK_S)
        load.give_up_late()
        load.meter.look(time.perf_counter(), time.process_time())
        tell(_far(load))


def _far(load: Load) -> str:
    meter = load.meter
    if not meter.wall_s:
        return "warming up"
    state = f"{meter.wall_s:.0f} s" if meter.measuring else f"waiting for {load.waiting():,} answers"
    errors = f", {meter.errors.total():,} errors" if meter.errors else ""
    return f"{state}: {meter.requests_per_s():,.1f} answers/s, {meter.tokens_per_s():,.0f} tokens/s{errors}"


async def _either(first: asyncio.Event, second: asyncio.Event | None, timeout_s: float | None) -> None:
    """Wait until one of the events is set, or the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in (first, second) if event is not None]
    await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _raise_limit_of_files() -> None:
    """Have as many connections as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
