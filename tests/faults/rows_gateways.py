"""F16–F18: gateways that die, and rolling restarts of gateways and workers."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.faults.client import ask, ask_resumable
from tests.faults.load import reach, together
from tests.faults.outcome import Kind, Outcome
from tests.faults.processes import Gateway
from tests.faults.row import Run, first_words
from tests.faults.system import System
from tests.waiting import wait_until

OPEN_STREAMS = 50
# A dead gateway's key lapses after ten seconds; then its workers look for what was meant for it.
_ABANDONED_WITHIN_S = 15.0


def killed(run: Run) -> None:
    """F16: SIGKILL to a gateway that has 50 resumable streams open, and some that are not."""
    doomed, other = run.system.gateways
    began = _Counter()

    def resumable(_: int) -> Outcome:
        ports = itertools.chain([doomed.port], itertools.repeat(other.port))
        what = replace(run.book.next(tokens=600), resumable=True)
        return ask_resumable(lambda: next(ports), what, on_frame=began.first)

    threads = together(resumable, OPEN_STREAMS, run.outcomes)
    left_alone = together(lambda _: ask(doomed.port, run.book.next(tokens=4000), on_frame=began.first), 6, run.outcomes)
    wait_until(lambda: began.count == OPEN_STREAMS + 6, "all streams to have begun")
    time.sleep(1)
    run.fault()
    doomed.process.kill()
    for thread in [*threads, *left_alone]:
        thread.join()
    ended_at = time.monotonic()
    resumed = [o for o in run.outcomes if o.reconnects]
    right = sum(o.kind is Kind.CLEAN for o in resumed)
    run.check(f"{OPEN_STREAMS} of {OPEN_STREAMS} resumable streams complete elsewhere", right == OPEN_STREAMS, right)
    others = [o for o in run.outcomes if not o.reconnects]
    run.check("the rest saw the connection break", all(o.kind is Kind.CUT for o in others), first_words(others, 1))
    wait_until(lambda: run.system.in_flight(run.model) == 0, "what nobody reads to be cancelled", timeout_s=40)
    took = time.monotonic() - ended_at
    what = f"abandoned work is cancelled within {_ABANDONED_WITHIN_S:g} s"
    run.check(what, took <= _ABANDONED_WITHIN_S, f"{took:.1f} s", timed=True)
    run.system.start_gateway(doomed)
    run.healed()
    run.outcomes.add(reach(lambda: doomed.port, run.book.next()))


def rolling_restart_of_gateways(run: Run) -> None:
    """F17: SIGTERM to one gateway after the other, under load, with streams that outlast the drain."""
    load = run.load(6, resumable=0.5)
    time.sleep(2)
    with balanced(run.system):
        for gateway in run.system.gateways:
            # 12 s each, and the drain is over after 4.
            threads = _long_streams(run, gateway)
            run.fault()
            _restart(run, gateway)
            for thread in threads:
                thread.join()
    run.healed()
    time.sleep(2)
    load.stop()
    _check_restart(run)


def rolling_restart_of_workers(run: Run) -> None:
    """F18: SIGTERM to one worker after the other, under load; what it cannot finish in time goes elsewhere."""
    load = run.load(8)
    time.sleep(2)
    codes = []
    for slot in run.system.workers(run.model):
        threads = together(lambda _: reach(run.system.port, run.book.next(tokens=800)), 4, run.outcomes)
        time.sleep(1)
        run.fault()
        run.system.stop_worker(slot)
        codes.append(slot.process.wait(40))
        run.system.start_worker(slot)
        run.system.wait_ready()
        for thread in threads:
            thread.join()
    run.healed()
    time.sleep(2)
    load.stop()
    run.check("every worker exits with 0", codes == [0] * len(codes), codes)
    run.all_clean()


def everything_restarted(run: Run) -> None:
    """F17 and F18 together: a deploy of two gateways and all workers under load."""
    load = run.load(8, resumable=0.5)
    time.sleep(2)
    run.fault()
    with balanced(run.system):
        for gateway in run.system.gateways:
            _restart(run, gateway)
        for slot in run.system.workers(run.model):
            run.system.stop_worker(slot)
            slot.process.wait(40)
            run.system.start_worker(slot)
            run.system.wait_ready()
    run.healed()
    time.sleep(2)
    load.stop()
    _check_restart(run)


def _long_streams(run: Run, gateway: Gateway) -> list[threading.Thread]:
    began = _Counter()
    ports = run.system.port

    def one(number: int) -> Outcome:
        what = run.book.next(tokens=1000)
        if number % 2:
            return ask(gateway.port, what, on_frame=began.first)
        first = itertools.chain([gateway.port], iter(ports, None))
        return ask_resumable(lambda: next(first) or ports(), replace(what, resumable=True), on_frame=began.first)

    threads = together(one, 8, run.outcomes)
    wait_until(lambda: began.count == 8, "the long streams to begin")
    return threads


def _restart(run: Run, gateway: Gateway) -> None:
    gateway.process.signal(signal.SIGTERM)
    seen: set[tuple[int, int]] = set()
    while gateway.process.runs:
        seen.add((gateway.get("/health", 1.0)[0], gateway.get("/live", 1.0)[0]))
        time.sleep(0.1)
    run.check("while draining: /health 503, /live 200", (503, 200) in seen, sorted(seen))
    run.check("the gateway exits with 0", gateway.process.exit_code() == 0, gateway.process.exit_code())
    run.system.start_gateway(gateway)


def _check_restart(run: Run) -> None:
    run.nothing_dirty()
    lost = [o for o in run.outcomes if o.resumable and o.kind is not Kind.CLEAN]
    run.check("every resumable answer is complete", not lost, first_words(lost))
    failed = [o for o in run.outcomes if o.kind is Kind.FAILED]
    codes = {o.code for o in failed}
    run.check("whatever failed was told that the server stops", codes <= {"service_unavailable"}, first_words(failed))


@contextmanager
def balanced(system: System) -> Iterator[None]:
    """Take gateways out of rotation as a load balancer does: by /health, five times a second."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.2):
            for gateway in system.gateways:
                gateway.in_rotation = gateway.get("/health", 1.0)[0] == 200

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for gateway in system.gateways:
            gateway.in_rotation = True


class _Counter:
    """How many streams have shown their first frame."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def first(self, outcome: Outcome, frames: int) -> None:
        if frames > 3:
            self._seen.add(id(outcome))

    @property
    def count(self) -> int:
        return len(self._seen)
