"""F35, F36, F38: no disk, many requests, and everything at random for a while."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.faults.load import reach
from tests.faults.outcome import Kind
from tests.faults.row import Run, first_words
from tests.faults.rows_redis import TOLD_WITHIN_S, told_in_time

MIB = 1 << 20
# A process grows while its caches fill; beyond that it must not.
GROWTH_MIB = 25.0


def disk_full(run: Run) -> None:
    """F35: no file can grow any more: not Redis' append-only file, and no log."""
    load = run.load(8)
    time.sleep(3)
    pids = [gateway.serving().pid for gateway in run.system.gateways] + [slot.process.pid for slot in run.system.slots]
    run.fault()
    run.system.redis.limit_files(1)
    for pid in pids:
        _limit_files(pid, 1)
    # Longer than whoever is in the middle may wait to be told.
    time.sleep(TOLD_WITHIN_S + 2)
    during = [reach(run.system.port, run.book.next()) for _ in range(4)]
    run.system.redis.limit_files(None)
    for pid in pids:
        _limit_files(pid, None)
    run.healed()
    time.sleep(5)
    load.stop()
    told_in_time(run)
    refused = [o for o in during if o.status == 503]
    run.check("what cannot be kept is refused with 503", len(refused) == len(during), first_words(during))
    last = [run.outcomes.add(reach(run.system.port, run.book.next())) for _ in range(4)]
    run.check("it goes on once there is room", all(o.kind is Kind.CLEAN for o in last), first_words(last))
    run.check("no process has ended", not any(slot.exits for slot in run.system.slots), "")
    run.nothing_dirty()


def _limit_files(pid: int, size: int | None) -> None:
    process = psutil.Process(pid)
    _, hard = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY if size is None else size, hard))


def many_requests(run: Run) -> None:
    """F36: 10,000 requests leave no key behind."""
    # As hard as later, so that what is measured is not how large a process is at its busiest.
    run.load(32, requests=100).join()
    time.sleep(5)
    slope = _Slope(run)
    with run.system.client() as client:
        before = client.dbsize()
        run.fault()
        load = run.load(32, requests=313)
        load.join()
        give_up = time.monotonic() + 75
        while client.dbsize() > before and time.monotonic() < give_up:
            time.sleep(0.5)
        after = client.dbsize()
    run.check("as many keys as before", after <= before, f"{before} before, {after} after 10,016 requests")
    run.all_clean()
    slope.check(run)


def endurance(run: Run) -> None:
    """F38: faults drawn by chance; two minutes, or a day with `--long`."""
    seconds, every = (24 * 3600.0, 600.0) if run.long else (120.0, 12.0)
    load = run.load(6, resumable=0.5, pause_s=0.05)
    time.sleep(10)
    slope = _Slope(run)
    run.fault()
    chance = random.Random(38)
    began = time.monotonic()
    names = []
    while time.monotonic() < began + seconds:
        name, strike = chance.choice(_FAULTS)
        names.append(name)
        strike(run)
        time.sleep(every)
        run.system.wait_ready()
    run.healed()
    load.stop()
    run.check("faults", len(names) >= 5, ", ".join(names))
    ended = [o for o in run.outcomes if o.kind not in (Kind.CLEAN, Kind.FAILED)]
    run.check("nothing ended dirty", not [o for o in ended if o.kind is not Kind.CUT], first_words(ended))
    failed = run.count(Kind.FAILED, Kind.CUT)
    run.check("at most 2 % noticed anything", failed <= 0.02 * len(run.outcomes), f"{failed} of {len(run.outcomes)}")
    slope.check(run)


def _kill_worker(run: Run) -> None:
    run.system.workers(run.model)[0].process.kill()


def _freeze_worker(run: Run) -> None:
    process = run.system.workers(run.model)[1].process
    process.signal(signal.SIGSTOP)
    time.sleep(5)
    process.signal(signal.SIGCONT)


def _kill_connections(run: Run) -> None:
    with run.system.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]


def _freeze_redis(run: Run) -> None:
    run.system.redis.freeze(2)


def _drain_worker(run: Run) -> None:
    slot = run.system.workers(run.model)[0]
    run.system.stop_worker(slot)
    slot.process.wait(60)
    run.system.start_worker(slot)


def _kill_gateway(run: Run) -> None:
    run.system.gateways[0].serving().kill()


_FAULTS: list[tuple[str, Callable[[Run], None]]] = [
    ("worker killed", _kill_worker),
    ("worker stopped for 5 s", _freeze_worker),
    ("connections cut", _kill_connections),
    ("Redis frozen for 2 s", _freeze_redis),
    ("worker drained", _drain_worker),
    ("gateway process killed", _kill_gateway),
]


class _Slope:
    """How much the processes that live through a row grow (I7)."""

    def __init__(self, run: Run) -> None:
        self._before = self._measure(run)

    def check(self, run: Run) -> None:
        after = self._measure(run)
        grown = {pid: (after[pid] - was) / MIB for pid, was in self._before.items() if pid in after}
        told = ", ".join(f"{_name(pid)} {mib:+.1f}" for pid, mib in grown.items())
        run.check(f"I7: no process grows by more than {GROWTH_MIB:g} MiB", max(grown.values()) <= GROWTH_MIB, told)

    @staticmethod
    def _measure(run: Run) -> dict[int, int]:
        pids = [run.system.redis.running.pid, *(slot.process.pid for slot in run.system.slots)]
        for gateway in run.system.gateways:
            with contextlib.suppress(psutil.NoSuchProcess, ValueError):
                pids.append(gateway.serving().pid)
        sizes = {}
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                sizes[pid] = psutil.Process(pid).memory_info().rss
        return sizes


def _name(pid: int) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ").replace("[", "").split()
        names = [word.rpartition("/")[2] for word in words]
        return next((name for name in names if name.startswith(("redis", "gunicorn", "celeryd"))), names[0]).rstrip(":")
    return str(pid)
