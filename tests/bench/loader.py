"""Measure the loader on simulated models: switches, a flood, and the way back to nothing.

Each runs a `celerity up` of its own.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from typing import Any

from tasks.records.replicas import ReplicaState
from tests.bench.site import site
from tests.waiting import wait_until

LOAD_S = 1.0
TTL_S = 10
TICK_S = 2.0
# Long enough for a replica that has answered to be idle for the loader.
PAUSE_S = 2.0

_SIM = "engine: sim, sim: {{load_s: {load_s}, memory_mib: 1000, seats: {seats}, ttft_ms: 5, itl_ms: 5}}"


def _model(name: str, seats: int = 16, **more: str) -> str:
    options = "".join(f", {key}: {value}" for key, value in more.items())
    return f"  {name}: {{{_SIM.format(load_s=LOAD_S, seats=seats)}{options}}}\n"


def switches(rounds: int) -> dict[str, Any]:
    """Two models, room for one, asked for in turn."""
    with site("models:\n" + _model("a") + _model("b"), memory_mib=1500) as running:
        running.ask("a")
        times = []
        for number in range(rounds):
            time.sleep(PAUSE_S)
            status, took_s = running.ask("ba"[number % 2])
            assert status == 200, status
            times.append(took_s)
    return {
        "switch A→B, only one fits, load 1 s: median s": round(statistics.median(times), 2),
        "switch A→B: longest s": round(max(times), 2),
    }


def random_switches(least: int) -> dict[str, Any]:
    """Three models, room for two, eight clients that choose by chance, until so many loads were made."""
    models = ("a", "b", "c")
    with site("models:\n" + "".join(_model(name) for name in models), memory_mib=2500) as running:
        answers: list[tuple[str, int, float]] = []

        def client(seed: int) -> None:
            chance = random.Random(seed)
            while running.loaded() < least + 2:
                model = chance.choice(models)
                answers.append((model, *running.ask(model)))
                time.sleep(chance.random() * 2)

        began = time.monotonic()
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.monotonic() - began
        loads = running.loaded()
    waits = [took for _, _, took in answers]
    return {
        "random switches under load: loads": loads,
        "random switches: minutes": round(took_s / 60, 1),
        "random switches: requests": len(answers),
        "random switches: failed": sum(1 for _, status, _ in answers if status != 200),
        "random switches: longest wait s (age limit 45)": round(max(waits), 1),
        "random switches: median wait s": round(statistics.median(waits), 2),
    }


def flood() -> dict[str, Any]:
    """From nothing to two replicas under a flood, and back once nobody asks any more."""
    with site("models:\n" + _model("a", seats=4, replicas="{min: 0, max: 2}", idle_ttl_s=str(TTL_S)), 2500) as running:
        statuses: Counter[int] = Counter()
        most = 0

        def client() -> None:
            for _ in range(10):
                statuses[running.ask("a", tokens=100)[0]] += 1

        began = time.monotonic()
        threads = [threading.Thread(target=client) for _ in range(32)]
        for thread in threads:
            thread.start()
        second_s = None
        while any(thread.is_alive() for thread in threads):
            ready = running.replicas()[ReplicaState.READY]
            most = max(most, ready)
            if ready >= 2 and second_s is None:
                second_s = time.monotonic() - began
            time.sleep(0.05)
        ended = time.monotonic()
        wait_until(lambda: not running.ordered(), "the replicas to go", timeout_s=TTL_S + 60)
        gone_s = time.monotonic() - ended
    return {
        "flood: requests answered": f"{statuses[200]} of {statuses.total()}",
        "flood: replicas at most": most,
        "flood: second replica ready after s": round(second_s, 1) if second_s else "never",
        f"flood: all gone after the last answer, s (TTL {TTL_S} s + 2 ticks = {TTL_S + 2 * TICK_S:g})": round(
            gone_s, 1
        ),
    }


def loader(switched: int, loads: int) -> dict[str, Any]:
    """Return what `switched` switches between two models took, what `loads` loads by chance, and a flood."""
    return switches(switched) | random_switches(loads) | flood()
