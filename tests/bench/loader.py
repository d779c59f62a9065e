"""Measure the loader on simulated models: switches, a flood, and the way back to nothing.

`python -m tests.bench.loader` runs `celerity up` in a folder of its own, three times.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import embedded_redis
from tasks.connections import command_client
from tasks.records.orders import OrderStore
from tasks.records.replicas import ReplicaState, ReplicaStore
from tests.waiting import wait_until

LOAD_S = 1.0
TTL_S = 10
TICK_S = 2.0
# Of the planner's: after so long a model that waits may have busy ones sent away.
AGE_LIMIT_S = 45.0
# Long enough for a replica that has answered to be idle for the loader.
PAUSE_S = 2.0

_SIM = "engine: sim, sim: {{load_s: {load_s}, memory_mib: 1000, seats: {seats}, ttft_ms: 5, itl_ms: 5}}"


@dataclass
class Site:
    """A `celerity up` that runs."""

    port: int
    state_dir: Path

    def ask(self, model: str, tokens: int = 8) -> tuple[int, float]:
        """Return the status and how long the whole answer took."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=200)
        body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "hi"}]}
        began = time.monotonic()
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status, time.monotonic() - began
        finally:
            connection.close()

    @contextlib.contextmanager
    def redis(self) -> Iterator[Any]:
        with contextlib.closing(command_client(f"unix://{embedded_redis.socket_path(self.state_dir)}")) as client:
            yield client

    def replicas(self) -> Counter[ReplicaState]:
        with self.redis() as client:
            return Counter(facts.state for facts in ReplicaStore(client).all())

    def ordered(self) -> set[str]:
        """Return the replicas that stand in an order now."""
        with self.redis() as client:
            return {order.replica for order in OrderStore(client).all()}

    def loaded(self) -> int:
        """Return how many replicas were ever ordered, by the loader's own log."""
        return (self.state_dir / "logs" / "control.log").read_bytes().count(b"order_starting")


@contextlib.contextmanager
def site(models: str, memory_mib: int, **env: str) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "models.yaml").write_text(models)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("CELERITY_")}
        environ |= {"CELERITY_MEMORY_MIB": str(memory_mib)} | env
        command = [sys.executable, "-m", "deploy", "up", "--port", "0", "--state-dir", str(folder / "s")]
        with (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                [*command, "--models", str(folder / "models.yaml")], stdout=subprocess.PIPE, stderr=err, env=environ
            )
        try:
            assert process.stdout is not None
            found = re.search(rb":(\d+)/v1", process.stdout.readline())
            assert found, (folder / "err").read_text()
            yield Site(int(found[1]), folder / "s")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(90)


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.loader", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="switches between two models")
    parser.add_argument("--loads", type=int, default=50, help="loads under random requests")
    options = parser.parse_args()
    results = switches(options.rounds) | random_switches(options.loads) | flood()
    width = max(map(len, results))
    sys.stdout.write("".join(f"{name:<{width}}  {value}\n" for name, value in results.items()))


if __name__ == "__main__":
    main()
