"""What vLLM calls in each of its processes: the plugins for AMX and for orphans, and the gauges."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil

from tests.waiting import wait_until
from workers.engine import amx, orphan
from workers.engine.vllm_gauges import Gauges

# A parent that starts an engine process as vLLM does, says which, and waits.
_FAMILY = """
import multiprocessing, sys, threading
from workers.engine import orphan

def engine(ready):
    orphan.register()
    ready.set()
    threading.Event().wait()

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=engine, args=(ready,))
    child.start()
    ready.wait()
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def cpu(*, supported: bool) -> tuple[ModuleType, list[str]]:
    asked: list[str] = []
    module = ModuleType("torch.cpu")
    module._is_amx_tile_supported = lambda: supported  # type: ignore[attr-defined]
    module._init_amx = lambda: asked.append("asked")  # type: ignore[attr-defined]
    return module, asked


def test_amx_is_asked_for_where_there_is_any() -> None:
    module, asked = cpu(supported=True)
    amx.ask_for_tiles(module)
    assert asked == ["asked"]


def test_amx_is_left_alone_elsewhere() -> None:
    module, asked = cpu(supported=False)
    amx.ask_for_tiles(module)
    amx.ask_for_tiles(ModuleType("a torch without either function"))
    assert asked == []


def test_a_process_without_a_python_parent_is_nobodys_orphan() -> None:
    orphan.register()


def test_an_engine_process_ends_with_its_parent_and_removes_their_folder(tmp_path: Path) -> None:
    scratch = tmp_path / f"{orphan.SCRATCH_PREFIX}test"
    scratch.mkdir()
    script = tmp_path / "family.py"
    script.write_text(_FAMILY)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"TMPDIR": str(scratch), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    wait_until(lambda: not child.is_running(), "the child has ended")
    assert not scratch.exists()


def test_the_gauges_hold_the_last_step() -> None:
    told: list[int] = []
    gauges = Gauges()
    gauges.after_step = lambda: told.append(1)
    stats = SimpleNamespace(num_running_reqs=3, num_waiting_reqs=2, num_skipped_waiting_reqs=1, kv_cache_usage=0.5)
    gauges.record(stats, None, mm_cache_stats=None, engine_idx=0)
    gauges.record(None, None)
    gauges.log_engine_initialized()
    gauges.log()
    assert (gauges.running, gauges.waiting, gauges.kv_usage) == (3, 3, 0.5)
    assert gauges.steps == len(told) == 2
