"""A process that is forked before it is known what for: otherwise it is what a spawned one would be."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from typing import Any

import psutil

from tests.waiting import wait_until

settled: list[str] = []

# A worker: it has imported something, plants a seed, and has processes started later.
BEGINNING = """
import os, sys, types
from tests.workers.test_seed import report, settle
from workers.engine import seed
sys.modules["imported_before"] = types.ModuleType("imported_before")
seed.plant(settle)
os.environ["LATE"] = "said later"
context = seed.multiprocessing_context()
def run(*args):
    process = context.Process(target=report, args=args)
    process.start()
    process.join()
    return process
"""


def settle() -> None:
    settled.append(os.environ.get("LATE", ""))


def report(code: int, queue: Any = None) -> None:
    """What the processes run: they say how they find things, and end with `code`."""
    parent = multiprocessing.parent_process()
    facts = {
        "pid": os.getpid(),
        "parent": parent.pid if parent else None,
        "late": os.environ.get("LATE"),
        "settled": settled,
        "forked": "imported_before" in sys.modules,
    }
    (queue.put if queue else _say)(facts)
    if code < 0 and parent:
        parent.join()
        _say({"orphaned": True})
    sys.exit(code)


def _say(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def worker(does: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"{BEGINNING}\n{does}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said_by(does: str) -> list[Any]:
    with worker(does) as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def test_it_becomes_the_next_process_with_the_environment_of_that_moment() -> None:
    does = "import json; it = run(7); print(json.dumps([it.pid, it.exitcode, seed.multiprocessing_context() is None]))"
    with worker(does) as process:
        out, _ = process.communicate()
    facts, (pid, code, none_left) = (json.loads(line) for line in out.splitlines())
    assert facts == {"pid": pid, "parent": process.pid, "late": "said later", "settled": ["said later"], "forked": True}
    assert (code, none_left) == (7, True)


def test_who_finds_no_seed_is_spawned() -> None:
    first, second, codes = said_by("print([run(number).exitcode for number in (1, 2)])")
    assert (first["forked"], second["forked"]) == (True, False)
    assert second["late"] == "said later"
    assert codes == [1, 2]


def test_who_takes_open_files_along_is_spawned() -> None:
    does = "queue = context.Queue(); it = run(0, queue); print(int(queue.get()['forked']), it.exitcode, sep='\\n')"
    assert said_by(does) == [0, 0]


def test_who_finds_its_seed_dead_is_spawned() -> None:
    does = "os.kill(seed._seeds[0].pid, 9); os.waitpid(seed._seeds[0].pid, 0); print(run(3).exitcode)"
    facts, code = said_by(does)
    assert (facts["forked"], code) == (False, 3)


def test_a_seed_that_nobody_needs_ends_with_its_worker() -> None:
    with worker("print(seed._seeds[0].pid, flush=True); sys.stdin.read()") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert psutil.pid_exists(pid)
        process.kill()
    wait_until(lambda: not psutil.pid_exists(pid), "the seed to end")


def test_what_became_of_a_seed_hears_that_its_worker_has_died() -> None:
    """As a spawned process does, by which an engine knows that it is an orphan."""
    with worker("run(-1)") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["forked"]
        process.kill()
        assert json.loads(process.stdout.readline()) == {"orphaned": True}
