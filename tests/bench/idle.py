"""What a whole `celerity up` spends while nothing is asked: CPU by process, and Redis commands by name."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from typing import Any

import psutil

from tests.bench.load import cpu_s
from tests.bench.site import Site, site

REPLICAS = (0, 1, 3)
# What loads leave to be done, such as a spare that starts anew.
_SETTLE_S = 15.0
_NAMED = (
    (re.compile(r"celeryd: (agent|control|bulk)@"), "{} worker"),
    (re.compile(r"celeryd: "), "replica"),
    (re.compile(r"celery beat"), "beat"),
    (re.compile(r"gunicorn: (\w+)"), "gunicorn {}"),
    (re.compile(r"celerity: spare"), "spare"),
    (re.compile(r"redis-server"), "redis"),
    (re.compile(r"guard_process"), "guard"),
    (re.compile(r"-m deploy up"), "celerity up"),
)


def idle_site(seconds: float) -> dict[str, Any]:
    """Watch it for so long with each number of replicas, all on one system that grows."""
    models = [f"m{number}" for number in range(max(REPLICAS))]
    entries = "".join(f"  {it}: {{engine: sim, sim: {{memory_mib: 1000}}, idle_ttl_s: 3600}}\n" for it in models)
    results: dict[str, Any] = {}
    with site(f"models:\n{entries}", memory_mib=8000) as running:
        running.spare("sim")
        for replicas in REPLICAS:
            for model in models[:replicas]:
                assert running.ask(model)[0] == 200
            time.sleep(_SETTLE_S)
            results |= {f"idle, {replicas} replicas: {name}": it for name, it in _watched(running, seconds).items()}
            assert sum(running.replicas().values()) == replicas
    return results


def _watched(running: Site, seconds: float) -> dict[str, Any]:
    processes = running.processes()
    began = time.perf_counter()
    before, commands = _by_role(processes), running.commands()
    time.sleep(seconds)
    after, called = _by_role(processes), running.commands()
    took = time.perf_counter() - began
    spent = {role: it - before[role] for role, it in after.items()}
    called.subtract(commands)
    called["info"] -= 1  # the look before
    return {
        "% of one core, all processes": round(100 * sum(spent.values()) / took, 2),
        "redis commands/s": round(called.total() / took, 1),
        **{f"% of one core: {role}": round(100 * it / took, 2) for role, it in sorted(spent.items())},
        **{f"redis commands/s: {name}": round(it / took, 2) for name, it in called.most_common() if it},
    }


def _by_role(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """Return CPU seconds by what spent them."""
    found: dict[str, float] = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            role = role_of(" ".join(process.cmdline()))
            found[role] = found.get(role, 0.0) + cpu_s(process)
    return found


def role_of(command: str) -> str:
    for pattern, name in _NAMED:
        if match := pattern.search(command):
            return name.format(*match.groups())
    return "others"
