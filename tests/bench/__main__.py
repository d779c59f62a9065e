"""Measure the path on the simulated engine: time to first token, throughput, idle cost, memory.

`python -m tests.bench [--seconds N]` starts a Redis, a gateway and an engine worker of
its own, prints a table and, with `--json FILE`, writes the same as JSON. The simulated
engine adds nothing (`ttft_ms: 0`), so what is measured is the product itself.
`python -m tests.bench peers` compares it with others instead: see `tests.bench.peers`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.bench.batches import batches
from tests.bench.bulk_beside import bulk_beside
from tests.bench.cold_start import cold_start
from tests.bench.growth import growth
from tests.bench.guards import guards
from tests.bench.idle import idle_site
from tests.bench.load import cpu_s, family, load
from tests.bench.loader import loader
from tests.bench.peers.command import main as peers
from tests.bench.streams import HOLD_S, streams
from tests.stack import GatewayProcess, Stack, stack

MODELS = """
models:
  instant:
    engine: sim
  paced:
    engine: sim
    sim: {ttft_ms: 0, itl_ms: 2}
"""


def main() -> None:
    if sys.argv[1:2] == ["peers"]:
        sys.exit(peers(sys.argv[2:]))
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each load runs")
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="how long the idle system is watched")
    parser.add_argument("--guards", type=int, metavar="ROUNDS", help="measure instead what it costs to lose nothing")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--cold", type=int, metavar="ROUNDS", help="measure instead how long loads take")
    parser.add_argument("--batches", type=int, metavar="LINES", help="measure instead batches beside requests by HTTP")
    parser.add_argument("--loader", type=int, metavar="SWITCHES", help="measure instead the loader: switches, a flood")
    parser.add_argument("--bulk", type=int, metavar="ROUNDS", help="measure instead interactive work beside bulk work")
    parser.add_argument("--model", default="sim", help="of --bulk: sim, or one of models.yaml")
    parser.add_argument(
        "--growth", type=int, metavar="ROUNDS", help="measure instead what a request costs as work grows"
    )
    parser.add_argument("--most", type=int, default=256, help="of --growth: leave out larger sizes")
    parser.add_argument("--streams", type=int, metavar="N", help="measure instead so many streams open at once")
    parser.add_argument("--idle", action="store_true", help="measure instead an idle `celerity up` with replicas")
    options = parser.parse_args()
    if options.guards:
        results = guards(options.guards, options.seconds)
    elif options.cold:
        results = cold_start(options.cold)
    elif options.bulk:
        results = bulk_beside(options.bulk, options.seconds, options.model)
    elif options.batches:
        results = batches(options.batches)
    elif options.growth:
        results = growth(options.growth, options.seconds, options.most)
    elif options.streams:
        results = streams(options.streams, HOLD_S)
    elif options.idle:
        results = idle_site(options.idle_seconds)
    elif options.loader:
        results = loader(options.loader, loads=50)
    else:
        results = measure(options)
    width = max(map(len, results))
    sys.stdout.write("".join(f"{name:<{width}}  {value}\n" for name, value in results.items()))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, stack(Path(folder), MODELS) as running:
        running.worker("instant")
        running.worker("paced")
        gateway = running.gateway()
        return {
            **time_to_first_token(gateway, options.seconds),
            **throughput(gateway, options.seconds),
            **idle(running, options.idle_seconds),
            **memory(running),
        }


def time_to_first_token(gateway: GatewayProcess, seconds: float) -> dict[str, Any]:
    """Streamed answers of 16 tokens at 2 ms each; the clock runs from the request to the first token."""
    results: dict[str, Any] = {}
    for concurrency in (1, 32):
        times = load(gateway, "paced", tokens=16, concurrency=concurrency, seconds=seconds, warmup=1.0)["ttft_ms"]
        results |= {f"ttft ms, concurrency {concurrency}: {name}": times[name] for name in ("p50", "p99")}
    return results


def throughput(gateway: GatewayProcess, seconds: float) -> dict[str, Any]:
    return {
        f"answers/s, streamed, {name}, unpaced, concurrency 64": load(
            gateway, "instant", tokens=tokens, concurrency=64, seconds=seconds, warmup=1.0
        )["requests_per_s"]
        for name, tokens in (("64 tokens", 64), ("one token", 1))
    }


def idle(running: Stack, seconds: float) -> dict[str, Any]:
    """CPU of every process, and Redis commands, while nothing is asked."""
    client = running.client()
    time.sleep(3)
    before = {process.pid: cpu_s(process) for process in family(running)}
    commands = client.info("stats")["total_commands_processed"]
    time.sleep(seconds)
    spent = sum(cpu_s(process) - before.get(process.pid, 0.0) for process in family(running))
    commands = client.info("stats")["total_commands_processed"] - commands
    client.close()
    return {
        "idle: % of one core, all processes": round(100 * spent / seconds, 2),
        "idle: redis commands/s": round(commands / seconds, 1),
    }


def memory(running: Stack) -> dict[str, Any]:
    assert running.server.process is not None
    named = {"redis": running.server.process.pid, "gateway (gunicorn master)": running.gateways[0].process.pid}
    named |= {
        f"engine worker ({worker.replica_id.rpartition('-')[0]})": worker.process.pid for worker in running.workers
    }
    results = {f"rss MiB: {name}": psutil.Process(pid).memory_info().rss // 2**20 for name, pid in named.items()}
    for child in psutil.Process(running.gateways[0].process.pid).children():
        results["rss MiB: gateway process"] = child.memory_info().rss // 2**20
    return results


if __name__ == "__main__":
    main()
