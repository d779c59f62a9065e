"""What a replica that has loaded tells about the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.reference_models import CONFIGS, write_model
from workers.devices import Device, DeviceKind
from workers.engine.vllm_args import engine_args
from workers.engine.vllm_memory import kv_mib
from workers.estimate.measured import Measured
from workers.estimate.measuring import measured
from workers.estimate.needs import Estimate, Source, estimate
from workers.estimate.ways import ways
from workers.memory import tree_share_mib
from workers.model_folder import ModelFolder, read
from workers.registry import ModelSpec

CPU = DeviceKind.CPU
MACHINE = (Device(id="cpu", kind=CPU, total_mib=64_000, free_mib=60_000),)


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return read(write_model(tmp_path / "m", CONFIGS["Qwen2.5-0.5B-Instruct"]), tmp_path)


def spec(folder: ModelFolder) -> ModelSpec:
    return ModelSpec(id="m", path=str(folder.path), max_model_len=4096)


def step_mib(need: Estimate) -> int:
    return next(term.mib for term in need.terms if term.name == "activations")


def test_at_first_the_largest_step_is_still_to_come(folder: ModelFolder) -> None:
    need = estimate(spec(folder), folder, CPU)
    fresh = measured("m", CPU, need, taken_mib=3000, kv_mib=500, worked=False, load_s=9.0)
    assert (fresh.other_mib, fresh.load_s, fresh.made_of) == (2500 + step_mib(need), 9.0, need.made_of)
    assert measured("m", CPU, need, taken_mib=3100, kv_mib=500, worked=True).other_mib == 2600


@pytest.mark.parametrize(("taken_mib", "cache_mib"), [(None, 500), (3000, None), (400, 500), (0, 0)])
def test_of_what_cannot_be_told_nothing_is_kept_but_the_time(
    folder: ModelFolder, taken_mib: int | None, cache_mib: int | None
) -> None:
    need = estimate(spec(folder), folder, CPU)
    seen = measured("m", CPU, need, taken_mib=taken_mib, kv_mib=cache_mib, worked=False, load_s=9.0)
    assert seen == Measured(model="m", kind=CPU, load_s=9.0)


def test_a_model_that_nothing_is_known_of_is_measured_by_its_time() -> None:
    assert measured("m", CPU, None, taken_mib=9, kv_mib=0, worked=False, load_s=2.0).load_s == 2.0


def test_the_most_that_was_seen_counts_until_weights_or_settings_change() -> None:
    def of(made_of: str, other_mib: int | None, load_s: float | None = None) -> Measured:
        return Measured(model="m", kind=CPU, made_of=made_of, other_mib=other_mib, load_s=load_s)

    assert of("a", 900, 10.0).then(of("a", 800, 20.0)) == of("a", 900, 15.0)
    assert of("a", 900).then(of("a", 950)) == of("a", 950)
    assert of("a", 900).then(of("b", 100, 3.0)) == of("b", 100, 3.0)
    assert of("a", 900, 10.0).then(of("", None, 20.0)) == of("a", 900, 15.0)
    assert of("", None, 10.0).then(of("a", 900)) == of("a", 900, 10.0)


def test_what_was_measured_is_reserved_the_next_time(folder: ModelFolder) -> None:
    first = estimate(spec(folder), folder, CPU)
    seen = measured("m", CPU, first, taken_mib=9_500, kv_mib=500, worked=True)
    second = estimate(spec(folder), folder, CPU, measured=seen)
    assert (second.source, second.mib) == (Source.MEASURED, 9_000 + (first.kv_mib or 0))
    (best, *_) = ways(spec(folder), folder, MACHINE, {CPU: seen})
    assert best.mib == second.mib


def test_a_worker_that_is_told_the_size_of_its_cache_reckons_no_other(folder: ModelFolder) -> None:
    told = engine_args(spec(folder), cpu=True, environ={"CELERITY_KV_MIB": "700"})
    assert told["kv_cache_memory_bytes"] == 700 << 20


def test_the_cache_of_a_loaded_engine_is_its_blocks(folder: ModelFolder) -> None:
    # 24 layers of two key and two value heads' 64 numbers in 16 bits
    assert kv_mib(spec(folder), CPU, blocks=32, block_tokens=128) == 32 * 128 * 24 * 2 * 2 * 64 * 2 >> 20
    assert kv_mib(ModelSpec(id="m", path="org/name"), CPU, blocks=32, block_tokens=128) is None


def test_shared_pages_of_a_process_and_its_children_count_once() -> None:
    size_mib = 64
    script = (
        f"import mmap, os, sys\nm = mmap.mmap(-1, {size_mib} << 20)\nm.write(b'x' * len(m))\n"
        "if not os.fork(): m.seek(0); m.read(); os.write(1, b'.'); sys.stdin.read(); os._exit(0)\n"
        "sys.stdin.read(); os.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        taken = tree_share_mib(process.pid)
        process.communicate(b"")
    assert taken is not None
    assert size_mib <= taken < 2 * size_mib


def test_who_has_ended_takes_nothing_that_could_be_told() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert tree_share_mib(ended.pid) is None
