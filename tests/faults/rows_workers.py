"""F1–F5 and F8: engine workers that die, hang, or die of what they are asked."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import psutil

from tests.faults.client import ask
from tests.faults.expected import sim_ask
from tests.faults.load import reach, together
from tests.faults.outcome import Kind, Outcome
from tests.faults.processes import Slot
from tests.faults.row import Run, first_words
from tests.waiting import wait_until

KILL_EVERY_S = 10.0
CLIENTS, REQUESTS, KILLS = 8, 100, 3
GAP_S = 5.0
_JSON = {"response_format": {"type": "json_object"}}


def killed_in_the_middle(run: Run) -> None:
    """F1: SIGKILL to a worker and all it started, every 10 s, while answers stream."""
    _kill_in_turns(run, lambda slot: slot.process.kill())


def killed_before_the_first_token(run: Run) -> None:
    """F3: the kill comes 50 ms after requests were handed in, while their prompts are being read."""

    def kill(slot: Slot) -> None:
        threads = together(lambda _: reach(run.system.port, run.book.next()), 4, run.outcomes)
        time.sleep(0.05)
        slot.process.kill()
        for thread in threads:
            thread.join()

    _kill_in_turns(run, kill)


def engine_core_killed(run: Run) -> None:
    """F5: only the process that computes is killed; its worker must end by itself and be replaced."""
    delays: list[float] = []
    codes: list[int | None] = []

    def kill(slot: Slot) -> None:
        worker, core = slot.process, slot.engine_core()
        core.kill()
        began = time.monotonic()
        wait_until(lambda: not worker.runs, "the worker to end by itself", timeout_s=15)
        delays.append(time.monotonic() - began)
        codes.append(worker.exit_code())

    _kill_in_turns(run, kill)
    longest = max(delays, default=0.0)
    run.check("the worker ends within 5 s of its engine", delays and longest <= 5, f"{longest:.2f} s")
    run.check("and not with 0", 0 not in codes, codes)


def _kill_in_turns(run: Run, kill: Callable[[Slot], None]) -> None:
    """Load as the issue states it, and a kill every 10 s of a worker that has a ready one beside it.

    A real engine takes longer than that to be ready again, so the load goes on until
    there were three.
    """
    load = run.load(CLIENTS, streamed=1.0)
    kills = 0
    next_at = time.monotonic() + 3.0
    while kills < KILLS or len(run.outcomes) < CLIENTS * REQUESTS:
        time.sleep(0.05)
        if time.monotonic() < next_at or len(run.system.ready_slots(run.model)) < 2:
            continue
        slots = run.system.workers(run.model)
        kills += 1
        run.fault()
        next_at = time.monotonic() + KILL_EVERY_S
        kill(slots[kills % len(slots)])
    load.stop()
    run.system.wait_ready(timeout_s=120)
    run.check("kills", kills >= KILLS, kills)
    run.all_clean()
    run.gaps_within(GAP_S)


def structured_output(run: Run) -> None:
    """F1: an answer in JSON is never spliced; it ends with one error event, or starts over unnoticed."""
    threads = together(
        lambda _: ask(run.system.port(), replace(run.book.next(tokens=600), extra=_JSON)), 8, run.outcomes
    )
    wait_until(lambda: run.system.in_flight(run.model) >= 4, "the answers to begin")
    time.sleep(0.5)
    run.fault()
    victim = max(run.system.workers(run.model), key=run.system.in_flight_of)
    victim.process.kill()
    for thread in threads:
        thread.join()
    run.system.wait_ready()
    run.outcomes.add(reach(run.system.port, run.book.next()))
    failed = [outcome for outcome in run.outcomes if outcome.kind is Kind.FAILED]
    codes = {outcome.code for outcome in failed}
    run.nothing_dirty()
    run.check("those in the middle end with engine_failed", failed and codes == {"engine_failed"}, first_words(failed))
    latest = max((outcome.ended - (run.fault_at or 0) for outcome in failed), default=0.0)
    run.check("within 10 s", latest <= 10, f"{latest:.2f} s", timed=True)


def only_worker_killed(run: Run) -> None:
    """F2: what waits, what had not begun and what was being answered all go on after the respawn."""
    (slot,) = run.system.workers(run.model)
    # More than there are seats, so that some are queued.
    threads = together(lambda n: reach(run.system.port, run.book.next(stream=n % 4 != 3)), 90, run.outcomes)
    wait_until(lambda: run.system.waiting(run.model) > 0, "a queue behind the full engine")
    time.sleep(0.4)
    run.fault()
    slot.process.kill()
    for thread in threads:
        thread.join()
    run.system.wait_ready()
    run.outcomes.add(reach(run.system.port, run.book.next()))
    run.all_clean()


def stopped_and_continued(run: Run) -> None:
    """F4: a worker stands still for 12 s and then goes on with what is no longer its own."""
    load = run.load(8, streamed=1.0)
    time.sleep(3)
    slot = run.system.workers(run.model)[0]
    run.fault()
    slot.process.signal(signal.SIGSTOP)
    time.sleep(12)
    slot.process.signal(signal.SIGCONT)
    run.healed()
    time.sleep(5)
    load.stop()
    run.system.wait_ready()
    run.all_clean()
    run.gaps_within(GAP_S)


def hung_for_ever(run: Run) -> None:
    """F4: a request makes the engine's loop stand still; whoever was beside it goes on elsewhere.

    It may do so twice, and there has to be somewhere to go on: hence three workers.
    """
    load = run.load(8, streamed=1.0)
    time.sleep(3)
    run.fault()
    hanging = ask(run.system.port(), sim_ask(run.model, "!hang"))
    run.healed()
    time.sleep(3)
    load.stop()
    run.system.wait_ready()
    run.all_clean()
    run.gaps_within(GAP_S)
    run.check("who hung two engines gets engine_failed", hanging.code == "engine_failed", hanging.why)
    run.check("x-should-retry: false", hanging.should_retry == "false", hanging.should_retry)


def poison(run: Run) -> None:
    """F8: requests that end every engine that takes them up, while others are answered beside them."""
    load = run.load(8)
    time.sleep(2)
    slots = run.system.workers(run.model)
    before = sum(len(slot.exits) for slot in slots)
    run.fault()
    # Dying at once, dying after the first frame but before a token, and dying without a stream.
    poisons = (("!exit", True), ("!exit-after 0", True), ("!exit", False))
    poisoned = []
    for order, stream in poisons:
        poisoned.append(ask(run.system.port(), sim_ask(run.model, order, stream=stream)))
        # One after the other: an answer may be moved twice, and each poison moves its neighbours that often.
        run.system.wait_ready()
        time.sleep(2)
    run.healed()
    time.sleep(3)
    load.stop()
    run.system.wait_ready()
    deaths = sum(len(slot.exits) for slot in slots) - before
    _check_poisoned(run, poisoned, deaths)
    run.all_clean()


def moved_too_often(run: Run) -> None:
    """F8: an answer that kills its engine after every few tokens is moved twice and then given up."""
    load = run.load(8)
    time.sleep(2)
    run.fault()
    outcome = ask(run.system.port(), sim_ask(run.model, "!exit-after 3"))
    run.healed()
    time.sleep(3)
    load.stop()
    run.system.wait_ready()
    run.check("it ends with an error event", outcome.kind is Kind.FAILED and outcome.status == 200, outcome.why)
    run.check("after its third engine", outcome.text.count(".") == 9, f"{outcome.text!r}")
    run.all_clean()


def poison_of_a_real_engine(run: Run) -> None:
    """F8 on vLLM: its process is killed whenever the one request is in it, always before a token."""
    slots = run.system.workers(run.model)
    before = sum(len(slot.exits) for slot in slots)
    poisoned: list[Outcome] = []
    victim = threading.Thread(target=lambda: poisoned.append(ask(run.system.port(), run.book.next())), daemon=True)
    run.fault()
    cores = _frozen_cores(slots)
    victim.start()
    deadline = time.monotonic() + 120
    while victim.is_alive() and time.monotonic() < deadline:
        time.sleep(0.7)
        for core in cores:
            core.kill()
        # The next engine is frozen before it takes work, so that it dies with the request, too.
        wait_until(lambda: run.system.ready_slots(run.model) or not victim.is_alive(), "a worker", timeout_s=90)
        cores = _frozen_cores(run.system.ready_slots(run.model)) if victim.is_alive() else []
    for core in cores:
        core.resume()
    victim.join(60)
    run.healed()
    run.system.wait_ready(timeout_s=120)
    deaths = sum(len(slot.exits) for slot in slots) - before
    run.outcomes.add(reach(run.system.port, run.book.next()))
    _check_poisoned(run, poisoned, deaths, most=2 * len(slots))
    run.all_clean()


def _frozen_cores(slots: list[Slot]) -> list[psutil.Process]:
    cores = []
    for slot in slots:
        with contextlib.suppress(LookupError, psutil.NoSuchProcess):
            core = slot.engine_core()
            core.suspend()
            cores.append(core)
    return cores


def _check_poisoned(run: Run, poisoned: list[Outcome], deaths: int, *, most: int | None = None) -> None:
    for outcome in poisoned:
        seen = f"{outcome.status} {outcome.why}"
        run.check("the poison's client gets engine_failed", outcome.code == "engine_failed", seen)
        if outcome.status != 200:
            run.check("x-should-retry: false", outcome.should_retry == "false", outcome.should_retry)
    run.check("2 deaths for each poison", deaths <= (most or 2 * len(poisoned)), deaths)
