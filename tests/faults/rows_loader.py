"""F26–F29 and F32: the loader's own processes die, are doubled, leave things half done, or have too little room."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter

from tests.faults.expected import sim_ask
from tests.faults.load import reach
from tests.faults.managed import AGENT, BEAT, CONTROL, TWO_TICKS_S, Managed, Service
from tests.faults.outcome import Kind, Outcome
from tests.faults.row import Run
from tests.faults.setups import OTHER, A, B, C
from tests.waiting import wait_until
from workers import launcher
from workers.launcher.base import Resources, new_replica_id, worker_command

BEATLESS_S = 12.0
THRASH_S = 60.0
WAITS_S = 60.0


def managed(run: Run) -> Managed:
    assert isinstance(run.system, Managed), "the row needs a loader"
    return run.system


def asked(run: Run, model: str, **options: object) -> Outcome:
    """Ask for a model, wherever it is."""
    return run.outcomes.add(reach(run.system.port, sim_ask(model, **options)))  # type: ignore[arg-type]


def beat_dead(run: Run) -> None:
    """F26: without beat what is loaded goes on serving, and who needs something else has the loader look."""
    system = managed(run)
    asked(run, A)
    run.fault()
    beat = system.service(BEAT)
    system.remove(beat)
    load = run.load(4)
    time.sleep(BEATLESS_S)
    load.stop()
    age_s = system.loader_age_s()
    told_s = max(
        (gateway.metric("celerity_loader_last_run_age_seconds") or 0 for gateway in system.gateways), default=0
    )
    run.check("nobody has had the loader look", age_s > BEATLESS_S - 3, f"{age_s:.1f} s")
    run.check("the metric says so", told_s > BEATLESS_S - 3, f"{told_s:.1f} s")
    cold = asked(run, B)
    run.check("a cold model is loaded all the same", cold.kind is Kind.CLEAN, f"{cold.took_s:.2f} s {cold.why}")
    system.restart(beat)
    run.healed()
    wait_until(lambda: system.loader_age_s() < TWO_TICKS_S, "the loader to look again", timeout_s=30)
    asked(run, A)
    run.all_clean()


def doubled(run: Run) -> None:
    """F27: two beats and two control workers, while models come and go."""
    system = managed(run)
    asked(run, A)
    run.fault()
    second = (system.add_beat(), system.add_control())
    for model in (B, A, C, B, A):
        asked(run, model)
    for service in second:
        system.remove(service)
    run.healed()
    asked(run, C)
    run.all_clean()
    _loaded_once_each(run, {A: 3, B: 2, C: 2})
    _nothing_orphaned(run)


def dies_half_way(run: Run) -> None:
    """F28: the loader or the agent ends at a line where something is begun and not finished."""
    system = managed(run)
    asked(run, A)
    run.fault()
    turns = [
        (CONTROL, "loader_ordered", B),
        (CONTROL, "loader_woke", A),
        (AGENT, "agent_launched", B),
        (AGENT, "agent_terminated", A),
        (AGENT, "agent_struck", B),
    ]
    died = []
    for name, point, model in turns:
        service = system.service(name)
        system.remove(service)
        # It ends at the point, and is started again without it.
        system.restart(service, CELERITY_FAILPOINT=point)
        service.env = {key: value for key, value in service.env.items() if key != "CELERITY_FAILPOINT"}
        before = len(service.exits)
        outcome = asked(run, model)
        _wait_for_exit(service, before)
        died.append(f"{point}: {service.exits[-1]}, answered after {outcome.took_s:.1f} s")
    run.healed()
    asked(run, A)
    run.check("each died at its point", all(": 70," in word for word in died), "; ".join(died))
    run.all_clean()
    _loaded_once_each(run, {A: 4, B: 3})
    _nothing_orphaned(run)


def _wait_for_exit(service: Service, before: int) -> None:
    wait_until(lambda: len(service.exits) > before, f"{service.name} to die", timeout_s=30)


def orphans(run: Run) -> None:
    """F29: a replica that nobody has ordered, while nobody looks; and a process that only looks like one."""
    system = managed(run)
    run.fault()
    services = [system.service(name) for name in (CONTROL, AGENT)]
    for service in services:
        system.remove(service)
    spec = system.registry.resolve(A)
    assert spec is not None
    env = system.settings().to_env()
    command = worker_command(spec, new_replica_id(A), env, device="cpu", reserved_mib=1000)
    starter = launcher.create(system.site)
    orphan = starter.start(command, Resources())
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, "CELERITY_REPLICA_ID": f"{A}-{secrets.token_hex(3)}"},
        start_new_session=True,
    )
    try:
        for service in services:
            system.restart(service)
        began = time.monotonic()
        wait_until(
            lambda: orphan.name in {order.replica for order in system.orders()}, "it to be adopted", timeout_s=30
        )
        took_s = time.monotonic() - began
        run.check("adopted", True, f"{took_s:.1f} s after the agent was started")
        run.healed()
        asked(run, A)
        run.check("and used", [it.id for it in system.ready_replicas(A)] == [orphan.name], orphan.name)
        asked(run, B)
        wait_until(lambda: orphan.exit_code() is not None, "it to leave when another needs the room", timeout_s=30)
        run.check("who is not ours was not touched", stranger.poll() is None, stranger.poll())
    finally:
        stranger.kill()
        stranger.wait()
        starter.close()
    run.all_clean()
    _nothing_orphaned(run)


def thrash(run: Run) -> None:
    """F32: three models, room for one, clients that ask for them in turn without a pause."""
    system = managed(run)
    began = time.monotonic()
    run.fault()
    turn = (A, B, C)

    def client(number: int) -> None:
        asks = 0
        while time.monotonic() - began < THRASH_S:
            asked(run, turn[(number + asks) % 3])
            asks += 1

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    minutes = (time.monotonic() - began) / 60
    loads = system.policy.loads
    run.all_clean()
    per_model = Counter(outcome.model for outcome in run.outcomes)
    run.check("each model has had its turns", min(per_model[model] for model in turn) > 0, dict(per_model))
    longest = max(outcome.took_s for outcome in run.outcomes)
    run.check(f"nobody waited longer than {WAITS_S:g} s", longest <= WAITS_S, f"{longest:.1f} s", timed=True)
    run.check("loads a minute are bounded", sum(loads.values()) / minutes <= 31, f"{sum(loads.values()) / minutes:.1f}")
    run.check("the pinned model was loaded once", loads[OTHER] == 1, loads[OTHER])


def _loaded_once_each(run: Run, most: dict[str, int]) -> None:
    """Check that no model was loaded more often than it had to be."""
    loads = managed(run).policy.loads
    seen = {model: loads[model] for model in most}
    run.check("nothing was loaded twice", all(seen[model] <= most[model] for model in most), seen)


def _nothing_orphaned(run: Run) -> None:
    """Check that what runs is what was ordered, and the other way round, two ticks later."""
    system = managed(run)

    def agree() -> bool:
        return set(system.replica_processes().values()) == {order.replica for order in system.orders()}

    began = time.monotonic()
    wait_until(agree, "orders and processes to agree", timeout_s=30)
    took_s = time.monotonic() - began
    run.check("no process without an order after two ticks", took_s <= TWO_TICKS_S, f"{took_s:.1f} s", timed=True)
