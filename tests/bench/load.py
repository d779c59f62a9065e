"""Load by the client that users have, in a process of its own, and what the processes of a system spend on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.stack import REPOSITORY, GatewayProcess, Stack

_TIMEOUT_S = 300.0


class LoadFailedError(Exception):
    """The load gave no figures. The text is what it said."""


def flags(options: Mapping[str, object]) -> list[str]:
    """Return options of a command as its arguments; what is None or False is left out, and True has no value."""
    # By identity: 0.0 equals False, and says something.
    said = {f"--{name.replace('_', '-')}": it for name, it in options.items() if it is not None and it is not False}
    return [name if value is True else f"{name}={value}" for name, value in said.items()]


def bench(url: str, *models: str, tokens: int, stream: bool = True, **options: object) -> dict[str, Any]:
    """Run `celerity bench` and return its figures. Raises LoadFailedError where nothing was answered.

    `options` are those of the command, such as `seconds`, as `flags` takes them.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "deploy", "bench", url, "--json", str(target), "--no-check"]
        command += [f"--model={model}" for model in models]
        command += [f"--tokens={tokens}", "--stream" if stream else "--no-stream"]
        command += flags(options)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CELERITY_")}
        try:
            done = subprocess.run(
                command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise LoadFailedError(f"no end after {_TIMEOUT_S:g} s") from None
        figures: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    if not figures.get("answered_ever"):
        raise LoadFailedError(str(figures.get("errors") or done.stderr or done.stdout)[-1000:])
    return figures


def load(gateway: GatewayProcess, *models: str, tokens: int, may_fail: bool = False, **options: Any) -> dict[str, Any]:
    """Return the figures of `bench`. Fails on requests that do, unless they may.

    Nothing warms up unless that is asked for: all that was answered is in `requests`, and what
    the system spends meanwhile can be divided by it.
    """
    figures = bench(gateway.url, *models, tokens=tokens, **{"warmup": 0.0} | options)
    assert may_fail or not figures["errors"], figures["errors"]
    return figures


def family(running: Stack) -> list[psutil.Process]:
    return [process for processes in families(running).values() for process in processes]


def families(running: Stack) -> dict[str, list[psutil.Process]]:
    """Return the processes of a system by what they are."""
    assert running.server.process is not None
    roots = {
        "redis": [running.server.process.pid],
        "gateways": [gateway.process.pid for gateway in running.gateways],
        "workers": [worker.process.pid for worker in running.workers],
    }
    return {
        name: [it for pid in pids for it in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
        for name, pids in roots.items()
    }


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
