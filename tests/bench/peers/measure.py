"""Rounds: every contender of a block under the same load, one after the other, again and again."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers import client
from tests.bench.peers.client import LoadFailedError
from tests.bench.peers.contender import Contender, spent
from tests.bench.peers.environments import NotInstalledError
from tests.bench.peers.results import Results, Round
from tests.bench.peers.scenarios import Block, Scenario
from tests.bench.peers.started import NotStartedError

Start = Callable[[str, Contender | None], contextlib.AbstractContextManager[Contender]]
"""Starts the contender of that name; the second is the first one that was started, which some stand in front of."""

_IDLE_S = 3.0
_WARMUP_S = 1.0


@dataclass(frozen=True, slots=True)
class Measuring:
    """How long, how often, and where things are kept."""

    rounds: int
    seconds: float
    folder: Path


def measure(
    block: Block,
    contenders: Sequence[str],
    scenarios: Sequence[Scenario],
    how: Measuring,
    start: Start,
    results: Results,
) -> None:
    """Add the rounds of a block to `results`. A contender that cannot be started is named there and left out."""
    with contextlib.ExitStack() as open_:
        running: list[Contender] = []
        for name in contenders:
            _say(f"starting {name}")
            try:
                running.append(open_.enter_context(start(name, running[0] if running else None)))
            except (NotInstalledError, NotStartedError, AssertionError) as error:
                results.failures[f"{block.name}: {name}"] = str(error)
                _say(f"{name} is left out: {error}")
        results.idle |= _idle(block, running)
        for scenario in scenarios:
            for number in range(1, how.rounds + 1):
                for contender in running:
                    if (contender.name, scenario.name) not in block.left_out:
                        _round(block, scenario, contender, number, how, results)


def _round(
    block: Block, scenario: Scenario, contender: Contender, number: int, how: Measuring, results: Results
) -> None:
    before = spent(contender)
    try:
        report = client.load(contender.url, scenario, seconds=how.seconds, warmup_s=_WARMUP_S, folder=how.folder)
    except LoadFailedError as error:
        results.failures[f"{block.name}: {contender.name}, {scenario.name}"] = str(error)
        return
    after = spent(contender)
    answers = client.answered(report)
    values = client.values(report)
    if contender.redis:
        values["redis_bytes_per_answer"] = (after.redis_bytes - before.redis_bytes) / answers
    cpu = {label: 1000 * seconds / answers for label, seconds in after.since(before).items()}
    values["cpu_ms_per_answer"] = sum(cpu.values())
    values["rss_mib"] = sum(after.rss_mib.values())
    result = Round(
        block=block.name,
        scenario=scenario.name,
        contender=contender.name,
        number=number,
        values=values,
        cpu_ms_per_answer=cpu,
        rss_mib=after.rss_mib,
    )
    results.rounds.append(result)
    _say(told(result))


def told(result: Round) -> str:
    """Return one line about a round."""
    values = result.values
    line = f"{result.scenario:<16} {result.contender:<14} {result.number}  {values['requests_per_s']:9.1f} answers/s"
    line += f"  ttft p50 {values.get('ttft_p50_ms', 0):8.2f} ms  p99 {values.get('ttft_p99_ms', 0):8.2f} ms"
    line += f"  cpu {values['cpu_ms_per_answer']:7.3f} ms  client {values['client_busy']:4.0%}"
    return line + (f"  {values['errors']:.0f} errors" if values["errors"] else "")


def _idle(block: Block, running: Sequence[Contender]) -> dict[str, float]:
    """Return how much of a core each takes while nobody asks: that much disturbs whoever is measured."""
    before = [spent(contender) for contender in running]
    time.sleep(_IDLE_S)
    after = [spent(contender) for contender in running]
    return {
        f"{block.name}: {contender.name}": round(sum(then.since(first).values()) / _IDLE_S, 4)
        for contender, first, then in zip(running, before, after, strict=True)
    }


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stdout.flush()
