"""Plan for a site that is not there: an hour of bursty requests in virtual time.

`python -m tests.site` simulates 200 nodes of four 48 GB devices and 100 models; the same models
where there are hardly enough seats for what is asked; and where only a part of the models fits.
It prints what happened as a table, with how much processor time each plan took. `--once` only times plans of a thousand
replicas on 200 nodes, from facts that were not simulated.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import time
from collections.abc import Sequence

from tests.site.cluster import Cluster
from tests.site.large import NOW, large_site
from tests.site.machines import Card, Machine
from tests.site.traffic import CARD_MIB, catalogue, hour
from workers.devices import DeviceKind
from workers.placement.facts import Place
from workers.placement.plan import plan

GIVEN_UP_AFTER_S = 180.0
"""A request that waits longer would have got 504 by then."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.site", description=__doc__)
    parser.add_argument(
        "--sites",
        type=_site,
        nargs="+",
        default=[(200, 100.0), (20, 50.0), (8, 10.0)],
        metavar="NODES:RATE",
        help="one simulation for each: how many nodes, and requests a second on the average",
    )
    parser.add_argument("--devices", type=int, default=4, help="of each node")
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--once", action="store_true", help="time single plans of a full site instead")
    options = parser.parse_args()
    if options.once:
        found = [single_plans(waiting, busy) for waiting, busy in ((0.3, 0.7), (1.0, 0.7), (1.0, 1.0), (0.0, 0.0))]
        sys.stdout.write(table([f"case {n + 1}" for n in range(len(found))], found))
        return
    columns = []
    for nodes, rate in options.sites:
        site = build(nodes, options.devices, options.models, options.seed)
        drive(site, rate=rate, seconds=options.seconds, seed=options.seed)
        columns.append(report(site, options.seconds))
    sys.stdout.write(
        table([f"{nodes} x {options.devices} devices, {rate:g}/s" for nodes, rate in options.sites], columns)
    )


def _site(text: str) -> tuple[int, float]:
    nodes, rate = text.split(":")
    return int(nodes), float(rate)


def build(nodes: int, devices: int, models: int, seed: int) -> Cluster:
    machines = [Machine(f"n{n:03}", ram_free_mib=512_000) for n in range(nodes)]
    cards = [
        Card(Place(machine.id, f"cuda:{n}"), DeviceKind.CUDA, CARD_MIB) for machine in machines for n in range(devices)
    ]
    return Cluster(catalogue(models, seed), machines, cards)


def drive(site: Cluster, *, rate: float, seconds: float, seed: int) -> None:
    for ask in hour(list(site.models.values()), rate=rate, until_s=seconds, seed=seed):
        site.ask(ask.model, ask.at, ask.service_s, bulk=ask.bulk)
    # Or the collector looks through all the requests of the hour while a plan is made and timed.
    gc.disable()
    try:
        site.run_until(seconds)
    finally:
        gc.enable()


def report(site: Cluster, seconds: float) -> dict[str, str]:
    taken = [request for process in site.processes.values() for request in process.running] + site.finished
    waits = sorted((request.taken_at or 0.0) - request.arrived_at for request in taken)
    waiting = [site.now - request.arrived_at for queue in site.queues.values() for request in queue]
    minutes = seconds / 60
    return {
        "requests": str(site.asked),
        "over-committed, or a rule broken": str(len(site.wrong)),
        "model was ready when asked for (hit rate)": f"{100 * site.hits / max(1, site.asked):.1f} %",
        "wait for a seat: p50": f"{1000 * quantile(waits, 0.5):.0f} ms",
        "wait for a seat: p99": f"{quantile(waits, 0.99):.1f} s",
        "longest wait": f"{max([*waits, *waiting], default=0.0):.0f} s",
        f"waited longer than {GIVEN_UP_AFTER_S:g} s": str(sum(wait > GIVEN_UP_AFTER_S for wait in [*waits, *waiting])),
        "still waiting at the end": str(len(waiting)),
        "loads a minute": f"{len(site.starts) / minutes:.1f}",
        "replicas at the end": str(len(site.processes)),
        "plans": str(len(site.plan_s)),
        "one plan: median": f"{1000 * statistics.median(site.plan_s):.1f} ms",
        "one plan: p99": f"{1000 * quantile(sorted(site.plan_s), 0.99):.1f} ms",
        "one plan: longest": f"{1000 * max(site.plan_s):.1f} ms",
    }


def single_plans(waiting: float, busy: float) -> dict[str, str]:
    """Plan the same facts thirty times."""
    facts = large_site(waiting=waiting, busy=busy)
    times = []
    for _ in range(30):
        began = time.perf_counter()
        found = plan(facts, NOW)
        times.append(time.perf_counter() - began)
    return {
        "replicas / nodes": f"{len(facts.replicas)} / {len(facts.nodes)}",
        "models that wait": f"{100 * waiting:.0f} %",
        "replicas with work": f"{100 * busy:.0f} %",
        "actions": str(len(found.actions)),
        "one plan: shortest": f"{1000 * min(times):.1f} ms",
        "one plan: median": f"{1000 * statistics.median(times):.1f} ms",
        "one plan: longest": f"{1000 * max(times):.1f} ms",
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))] if ordered else 0.0


def table(heads: Sequence[str], columns: Sequence[dict[str, str]]) -> str:
    lines = [["", *heads], *([name, *(column[name] for column in columns)] for name in columns[0])]
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


if __name__ == "__main__":
    main()
