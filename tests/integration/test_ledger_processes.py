"""The ledger between processes: nobody takes what another has, and a killed one leaves all of a change or nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.bulk.ledger import Ledger
from tests.stack import REPOSITORY
from tests.tasks.bulk.ledger_rows import answer, counts_of, lines, numbers, started

pytestmark = pytest.mark.integration

LINES = 1500


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()


def spawn(module: str, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"tests.integration.{module}", *args]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def check(ledger: Ledger, here: str, total: int) -> None:
    """Every line is in one place, and the counts are those of what there is."""
    counts = counts_of(ledger, here)
    results = [outcome.number for _, outcome in ledger.results(here, ok=True)]
    running = numbers(ledger.running([here]))
    assert counts.completed == len(results) == len(set(results))
    assert counts.total == total
    assert not set(results) & set(running)
    assert ledger.pending(here).get("demo", 0) == total - len(results) - len(running)


def test_processes_never_take_the_same_line(ledger: Ledger, ledger_url: str) -> None:
    here = started(ledger, lines(LINES))
    takers = [spawn("ledger_processes", "take", ledger_url, here) for _ in range(3)]
    taken = [int(number) for taker in takers for number in said(taker).split()]
    assert sorted(taken) == list(range(1, LINES + 1))
    check(ledger, here, LINES)


@pytest.mark.parametrize("what", ["record", "give_back", "take"])
def test_a_process_killed_before_any_statement_has_done_all_or_nothing(
    ledger: Ledger, ledger_url: str, what: str
) -> None:
    here = started(ledger, lines(20))
    ledger.take(here, "demo", 10)
    before = counts_of(ledger, here), ledger.pending(here)
    at = 0
    while True:
        at += 1
        process = spawn("ledger_processes", "die", ledger_url, here, what, str(at))
        out, err = process.communicate(timeout=60)
        if process.returncode != -signal.SIGKILL:
            break
        assert (counts_of(ledger, here), ledger.pending(here)) == before
        check(ledger, here, 20)
    assert process.returncode == 0, err
    assert at > 3
    assert int(out) == (5 if what == "take" else 10)
    assert (counts_of(ledger, here), ledger.pending(here)) != before
    check(ledger, here, 20)


def test_work_goes_on_after_any_kill_until_every_line_has_one_result(ledger: Ledger, ledger_url: str) -> None:
    here = started(ledger, lines(LINES))
    for _ in range(3):
        process = spawn("ledger_processes", "work", ledger_url, here)
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline()
        process.kill()
        process.communicate()
        check(ledger, here, LINES)
        ledger.give_back(ledger.running([here]))
    while taken := ledger.take(here, "demo", 200):
        ledger.record([answer(one) for one in taken])
    assert [outcome.number for _, outcome in ledger.results(here, ok=True)] == list(range(1, LINES + 1))


def test_a_patched_process_uses_it_from_greenlets_and_threads(ledger_url: str, tmp_path: Path) -> None:
    path = [str(tmp_path / "bulk" / "ledger.db")] if ledger_url.startswith("sqlite") else []
    assert said(spawn("ledger_under_gevent", ledger_url, *path)) == "done\n"
