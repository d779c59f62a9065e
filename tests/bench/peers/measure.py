"""Rounds: every contender of a block under the same load, one after the other, again and again."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.load import LoadFailedError
from tests.bench.peers import client
from tests.bench.peers.contender import Contender, Spent, spent
from tests.bench.peers.environments import NotInstalledError
from tests.bench.peers.results import Case, Results, Round
from tests.bench.peers.scenarios import Block, Scenario
from tests.bench.peers.started import NotStartedError

Start = Callable[[str, Contender | None], contextlib.AbstractContextManager[Contender]]
"""Starts the contender of that name; the second is the first one that was started, which some stand in front of."""

_IDLE_S = 3.0
_LOOKS = 10
_STARTING = 0.1
"""Of a core: whoever takes more is still starting, and would disturb the others."""
_WARMUP_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How often and how long each is asked, where files are kept, and what was found."""

    rounds: int
    seconds: float
    quick: bool
    results: Results

    def run(self, block: Block, contenders: Sequence[str], scenarios: Sequence[Scenario], start: Start) -> None:
        """Add the rounds of a block. A contender that cannot be started is named in the results and left out."""
        with contextlib.ExitStack() as open_:
            running: list[Contender] = []
            for name in contenders:
                if not any(block.asks(name, scenario, quick=self.quick) for scenario in scenarios):
                    continue
                _say(f"starting {name}")
                try:
                    running.append(open_.enter_context(start(name, running[0] if running else None)))
                except (NotInstalledError, NotStartedError, AssertionError) as error:
                    self.results.failures[f"{block.name}: {name}"] = str(error)
                    _say(f"{name} is left out: {error}")
            self.results.idle.update(_settled(block, running))
            for scenario in scenarios:
                asked = [it for it in running if block.asks(it.name, scenario, quick=self.quick)]
                for number in range(1, self.rounds + 1):
                    for contender in asked:
                        self._round(Case(block.name, scenario.name), scenario, contender, number)

    def _round(self, case: Case, scenario: Scenario, contender: Contender, number: int) -> None:
        before = spent(contender)
        try:
            report = client.load(contender.url, scenario, seconds=self.seconds, warmup_s=_WARMUP_S)
        except LoadFailedError as error:
            self.results.failures[f"{case.block}: {contender.name}, {scenario.name}"] = str(error)
            return
        after = spent(contender)
        found = result(case, contender, number, report, before=before, after=after)
        self.results.rounds.append(found)
        _say(told(found))


def result(
    case: Case, contender: Contender, number: int, report: Mapping[str, Any], *, before: Spent, after: Spent
) -> Round:
    """Put together what the load says and what the contender has spent on it."""
    answers = client.answered(report)
    values = client.values(report)
    if contender.redis:
        values["redis_bytes_per_answer"] = (after.redis_bytes - before.redis_bytes) / answers
    cpu = {label: 1000 * seconds / answers for label, seconds in after.since(before).items()}
    values["cpu_ms_per_answer"] = sum(cpu.values())
    values["rss_mib"] = sum(after.rss_mib.values())
    return Round(
        case=case,
        contender=contender.name,
        number=number,
        values=values,
        cpu_ms_per_answer=cpu,
        rss_mib=after.rss_mib,
    )


def told(result: Round) -> str:
    """Return one line about a round."""
    values = result.values
    line = (
        f"{result.case.scenario:<16} {result.contender:<14} {result.number}  {values['answers_per_s']:9.1f} answers/s"
    )
    times = "ttft" if "ttft_p50_ms" in values else "e2e"
    # Nothing that began within the window may have ended in it.
    p50, p99 = (values.get(f"{times}_{percentile}_ms", float("nan")) for percentile in ("p50", "p99"))
    line += f"  {times:>4} p50 {p50:8.2f} ms  p99 {p99:8.2f} ms"
    line += f"  cpu {values['cpu_ms_per_answer']:7.3f} ms  client {values['client_busy']:4.0%}"
    return line + (f"  {values['errors']:.0f} errors" if values["errors"] else "")


def _settled(block: Block, running: Sequence[Contender]) -> dict[str, float]:
    """Return how much of a core each takes unasked, once all have done what they do after their start."""
    for _ in range(_LOOKS):
        taken = _idle(running)
        if all(share < _STARTING for share in taken.values()):
            break
    return {f"{block.name}: {name}": round(share, 4) for name, share in taken.items()}


def _idle(running: Sequence[Contender]) -> dict[str, float]:
    before = [spent(contender) for contender in running]
    time.sleep(_IDLE_S)
    after = [spent(contender) for contender in running]
    return {
        contender.name: sum(then.since(first).values()) / _IDLE_S
        for contender, first, then in zip(running, before, after, strict=True)
    }


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stdout.flush()
