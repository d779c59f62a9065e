"""Measure Celerity beside its peers on this machine, in one run.

Three blocks: `stub` (a stub engine alone, behind routers and proxies, and Celerity with
its simulated engine at the same pace), `vllm` (vLLM's own server and Celerity with the
same model) and `ray` (Ray Serve). Peers are installed into environments of their own;
one that cannot be is named in the results, and the others go on.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.peers import contenders, documents, environments
from tests.bench.peers.contenders import Places
from tests.bench.peers.measure import Comparison
from tests.bench.peers.results import Results
from tests.bench.peers.scenarios import BLOCKS
from tests.stack import REPOSITORY


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench peers", description=__doc__)
    names = [scenario.name for block in BLOCKS for scenario in block.scenarios]
    parser.add_argument("--quick", action="store_true", help="fewer scenarios: seven minutes instead of twenty-five")
    parser.add_argument("--only", choices=[block.name for block in BLOCKS], action="append", help="only this block")
    parser.add_argument("--scenario", choices=sorted(set(names)), action="append", metavar="NAME", help="only this")
    parser.add_argument("--contender", action="append", metavar="NAME", help="only this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each load is measured")
    parser.add_argument("--envs", type=Path, default=environments.CACHE, help="where the peers are installed")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--logs", type=Path, help="keep the logs of all that ran in this folder")
    parser.add_argument("--write", action="store_true", help="write table, plots and results into docs/")
    options = parser.parse_args(arguments)
    # So that what runs is ended in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = options.logs or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        results = run(options, folder)
    sys.stdout.write("\n" + documents.markdown(results))
    if options.json:
        results.write(options.json)
    if options.write:
        documents.keep(results, REPOSITORY / "docs", options.envs)
    return 0


def run(options: argparse.Namespace, folder: Path) -> Results:
    results = Results(about=about(options))
    comparison = Comparison(rounds=options.rounds, seconds=options.seconds, quick=options.quick, results=results)
    for block in BLOCKS:
        scenarios = block.chosen(quick=options.quick, names=options.scenario or ())
        if scenarios and (not options.only or block.name in options.only):
            only = options.contender or block.contenders
            start = partial(contenders.start, Places(block.name, folder, options.envs))
            comparison.run(block, [name for name in block.contenders if name in only], scenarios, start)
    return results


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a reader has to know of a run."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    processor = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": {it.package: it.version for it in environments.PEERS},
    }
