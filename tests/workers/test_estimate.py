"""What a replica takes, term by term."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.workers.reference_models import CONFIGS, write_model, write_safetensors
from workers.devices import DeviceKind
from workers.estimate.measured import Measured
from workers.estimate.needs import (
    CONTEXT_MIB,
    CPU_RUNTIME_MIB,
    Estimate,
    NeedUnknownError,
    Source,
    estimate,
    gpu_memory_utilization,
)
from workers.estimate.parameters import computed_bytes, parameters
from workers.model_folder import ModelFolder, read
from workers.registry import ModelSpec, SimSpec

CUDA, CPU = DeviceKind.CUDA, DeviceKind.CPU
LLAMA = CONFIGS["Llama-3.1-8B-Instruct"]
SMALL = CONFIGS["Qwen2.5-0.5B-Instruct"]
# The figures that were asked for, in GB.
SEED = {
    "Qwen2.5-14B-Instruct-AWQ": 10.4,
    "Qwen3-4B-AWQ": 2.8,
    "Qwen3-8B-AWQ": 6.4,
    "Llama-3.1-8B-Instruct": 16,
    "Mistral-7B-Instruct-v0.2": 14.8,
    "DeepSeek-R1-Distill-Qwen-14B-uncensored": 29.6,
}
# As their makers count them.
PARAMETERS = {
    "Llama-3.1-8B-Instruct": 8_030_261_248,
    "Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "Qwen2.5-7B-Instruct-Uncensored": 7_615_616_512,
    "DeepSeek-R1-Distill-Qwen-14B-uncensored": 14_770_033_664,
    "Qwen2.5-0.5B-Instruct": 494_032_768,
}


def folder(tmp_path: Path, config: dict[str, Any]) -> ModelFolder:
    place = write_model(tmp_path / "m", config)
    return read(place, place)


def need(found: ModelFolder | None, kind: DeviceKind = CUDA, *, total: int | None = None, **fields: Any) -> Estimate:
    return estimate(ModelSpec(id="m", **fields), found, kind, device_total_mib=total)


def mib(found: Estimate, term: str) -> int:
    return next(each.mib for each in found.terms if each.name == term)


@pytest.mark.parametrize(("name", "gb"), SEED.items())
def test_the_weights_of_known_models_are_what_they_are_known_to_be(tmp_path: Path, name: str, gb: float) -> None:
    found = folder(tmp_path, CONFIGS[name])
    assert found.weights is not None
    assert found.weights.total_bytes / 1e9 == pytest.approx(gb, rel=0.1)
    assert mib(need(found), "weights") * (1 << 20) == pytest.approx(found.weights.total_bytes, abs=1 << 20)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_numbers_of_a_config_come_to_the_same_as_the_files(tmp_path: Path, name: str) -> None:
    found = folder(tmp_path, CONFIGS[name])
    assert found.weights is not None
    assert found.config.shape is not None
    computed = computed_bytes(found.config.shape, dtype_bytes=2, quantization=found.config.quantization)
    assert computed == pytest.approx(found.weights.total_bytes, rel=0.001)
    waiting = replace(found, weights=None)
    assert mib(need(waiting), "weights") == pytest.approx(mib(need(found), "weights"), rel=0.001)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_the_parameters_of_known_models_are_as_many_as_they_are(tmp_path: Path, name: str, count: int) -> None:
    shape = folder(tmp_path, CONFIGS[name]).config.shape
    assert shape is not None
    found = parameters(shape)
    assert found.embedding + found.layers == count


MIXTRAL = {**LLAMA, "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2, "rope_scaling": None}
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "num_hidden_layers": 61,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 163840,
}


@pytest.mark.parametrize(("config", "billions"), [(MIXTRAL, 46.7), (DEEPSEEK_V3, 671)])
def test_experts_are_counted_all(tmp_path: Path, config: dict[str, Any], billions: float) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = read(tmp_path, tmp_path).config.shape
    assert shape is not None
    found = parameters(shape)
    assert (found.embedding + found.layers) / 1e9 == pytest.approx(billions, rel=0.01)


def test_every_term_has_a_name_and_they_come_to_the_whole(tmp_path: Path) -> None:
    found = folder(tmp_path, LLAMA)
    gpu = need(found, CUDA, max_model_len=8192)
    assert [term.name for term in gpu.terms] == ["weights", "activations", "CUDA graphs", "runtime", "KV cache"]
    cpu = need(found, CPU, max_model_len=8192)
    assert [term.name for term in cpu.terms] == ["weights", "activations", "output matrix", "runtime", "KV cache"]
    for each in (gpu, cpu):
        assert each.source is Source.ESTIMATED
        assert each.mib == sum(term.mib for term in each.terms)
        assert all(term.how for term in each.terms)
    assert mib(cpu, "runtime") == CPU_RUNTIME_MIB
    assert "CUDA graphs" not in [t.name for t in need(found, engine_args={"enforce_eager": True}).terms]


@pytest.mark.parametrize(
    ("fields", "sequences"),
    [
        ({"max_model_len": 8192}, 4),
        ({"max_model_len": 1024}, 32),
        ({}, 1),
        ({"max_model_len": 8192, "engine_args": {"max_num_seqs": 2}}, 2),
        ({"max_model_len": 8192, "engine_args": {"max-num-seqs": 64}}, 64),
        ({"max_model_len": 8192, "engine_args": {"max_num_seqs": "many"}}, 4),
    ],
)
def test_the_kv_cache_is_for_so_many_sequences_of_full_length(
    tmp_path: Path, fields: dict[str, Any], sequences: int
) -> None:
    found = need(folder(tmp_path, LLAMA), **fields)
    # 32 layers, 8 heads of 128, keys and values in 16 bits: 128 KiB a token. And one block of 16 tokens.
    context = fields.get("max_model_len", 131072)
    assert mib(found, "KV cache") == sequences * context // 8 + 2
    assert found.least_mib == found.mib - (sequences - 1) * context // 8


def test_a_shorter_cache_is_the_second_best_way(tmp_path: Path) -> None:
    found = need(folder(tmp_path, LLAMA), max_model_len=8192)
    assert found.ways == (found.mib, found.least_mib)
    assert need(folder(tmp_path / "b", LLAMA)).ways == (need(folder(tmp_path / "c", LLAMA)).mib,)


def test_a_cache_is_no_larger_than_the_device_allows(tmp_path: Path) -> None:
    found = folder(tmp_path, LLAMA)
    large = need(found, total=24_000, max_model_len=8192, engine_args={"max_num_seqs": 256})
    assert large.least_mib < large.mib <= 24_000 * 0.97
    tiny = need(found, total=8_000, max_model_len=8192)
    assert tiny.mib == tiny.least_mib > 8_000  # it fits nowhere, and says how much it would take


@pytest.mark.parametrize(("dtype", "factor"), [("fp8", 0.5), ("auto", 1), ("float16", 1)])
def test_numbers_in_the_cache_have_a_size_of_their_own(tmp_path: Path, dtype: str, factor: float) -> None:
    found = folder(tmp_path, LLAMA)
    plain = mib(need(found), "KV cache")
    assert mib(need(found, engine_args={"kv_cache_dtype": dtype}), "KV cache") == pytest.approx(plain * factor, abs=2)


def test_a_declared_size_wins_and_the_cache_is_what_it_leaves(tmp_path: Path) -> None:
    found = need(folder(tmp_path, LLAMA), memory_mib=20_000, max_model_len=8192)
    assert (found.source, found.mib, found.ways, found.problem) == (Source.DECLARED, 20_000, (20_000,), None)
    assert found.kv_mib == mib(found, "KV cache") == 20_000 - sum(t.mib for t in found.terms if t.name != "KV cache")


def test_a_declared_size_that_is_too_small_says_what_would_do(tmp_path: Path) -> None:
    found = need(folder(tmp_path, LLAMA), memory_mib=17_000, max_model_len=8192)
    enough = need(folder(tmp_path / "b", LLAMA), max_model_len=8192).least_mib
    assert found.problem is not None
    assert f"allow {enough:,} MiB in all, or lower its max_model_len" in found.problem


def test_a_declared_size_is_all_that_is_known_of_a_model_that_is_elsewhere(tmp_path: Path) -> None:
    found = need(None, path="org/name", memory_mib=5000, engine_args={"tensor_parallel_size": 2})
    assert (found.mib, found.least_mib, found.devices, found.kv_mib) == (5000, 5000, 2, None)
    with pytest.raises(NeedUnknownError, match="not on this machine"):
        need(None, path="org/name")


def test_a_simulated_model_takes_what_its_entry_says() -> None:
    found = need(None, CPU, engine="sim", sim=SimSpec(memory_mib=77), memory_mib=5)
    assert (found.mib, found.devices, found.ways) == (77, 1, (77,))


def test_a_model_that_is_not_understood_needs_a_declared_size(tmp_path: Path) -> None:
    found = folder(tmp_path, LLAMA)
    odd = replace(found, config=replace(found.config, shape=None, shape_problem="config.json has no vocab_size"))
    with pytest.raises(NeedUnknownError, match=r"config\.json has no vocab_size; set its memory_mib"):
        need(odd)
    assert need(odd, memory_mib=9000).mib == 9000
    states = {"layer_types": ["linear_attention"] * 32, "conv_L_cache": 3}
    waiting = replace(folder(tmp_path / "b", LLAMA | states), weights=None)
    with pytest.raises(NeedUnknownError, match="layers without attention"):
        need(waiting)
    assert need(waiting, memory_mib=9000).mib == 9000


def test_a_share_of_the_device_that_the_entry_asks_for_is_what_is_taken(tmp_path: Path) -> None:
    found = need(folder(tmp_path, LLAMA), total=48_000, engine_args={"gpu_memory_utilization": 0.9})
    assert found.mib == 43_200 + CONTEXT_MIB
    assert mib(found, "KV cache") == found.mib - sum(t.mib for t in found.terms if t.name != "KV cache")


def test_a_cache_of_a_size_that_the_entry_asks_for_is_that_large(tmp_path: Path) -> None:
    found = need(folder(tmp_path, LLAMA), max_model_len=8192, engine_args={"kv_cache_memory_bytes": 3 << 30})
    assert mib(found, "KV cache") == 3072


@pytest.mark.parametrize("parallel", [2, 4])
def test_several_devices_share_weights_and_heads(tmp_path: Path, parallel: int) -> None:
    found = folder(tmp_path, LLAMA)
    one = need(found, max_model_len=8192)
    some = need(found, max_model_len=8192, engine_args={"tensor_parallel_size": parallel})
    assert (one.devices, some.devices) == (1, parallel)
    for term in ("weights", "KV cache"):
        assert mib(some, term) == pytest.approx(mib(one, term) / parallel, abs=3)
    assert mib(some, "activations") < mib(one, "activations")
    assert mib(some, "runtime") > mib(one, "runtime")


def test_more_devices_than_heads_keep_the_same_heads_several_times(tmp_path: Path) -> None:
    found = folder(tmp_path, SMALL)  # two heads
    caches = [
        mib(need(found, max_model_len=8192, engine_args={"tensor_parallel_size": n}), "KV cache") for n in (1, 2, 4)
    ]
    assert caches[1] == caches[2] < caches[0]


def test_devices_in_a_row_share_the_layers(tmp_path: Path) -> None:
    found = folder(tmp_path, LLAMA)
    one, two = need(found), need(found, engine_args={"pipeline_parallel_size": 2})
    assert two.devices == 2
    for term in ("weights", "KV cache", "CUDA graphs"):
        assert mib(two, term) == pytest.approx(mib(one, term) / 2, abs=3)


def test_processes_on_one_cpu_take_one_device(tmp_path: Path) -> None:
    found = folder(tmp_path, LLAMA)
    one, two = need(found, CPU), need(found, CPU, engine_args={"tensor_parallel_size": 2})
    assert two.devices == 1
    assert mib(two, "weights") == mib(one, "weights")
    assert mib(two, "KV cache") == pytest.approx(mib(one, "KV cache"), abs=3)
    assert mib(two, "runtime") > mib(one, "runtime")


def test_weights_become_the_engine_s_kind_of_number(tmp_path: Path) -> None:
    found = folder(tmp_path, SMALL)
    assert mib(need(found, CPU, engine_args={"dtype": "float32"}), "weights") == pytest.approx(1885, abs=1)
    write_safetensors(found.path / "model.safetensors", {"x": ("F32", [1 << 20]), "y": ("I32", [1 << 20])})
    stored = read(found.path, found.path)
    assert mib(need(stored), "weights") == 2 + 4


@pytest.mark.parametrize(("method", "gb"), [("fp8", 9.1), ("mxfp4", 5.6)])
def test_weights_that_are_quantized_while_they_are_loaded_shrink(tmp_path: Path, method: str, gb: float) -> None:
    found = need(folder(tmp_path, LLAMA), engine_args={"quantization": method})
    assert mib(found, "weights") * (1 << 20) / 1e9 == pytest.approx(gb, rel=0.02)
    assert "quantized to" in found.terms[0].how


def test_what_is_quantized_already_stays_as_it_is(tmp_path: Path) -> None:
    found = folder(tmp_path, CONFIGS["Qwen3-4B-AWQ"])
    assert mib(need(found), "weights") == mib(need(found, engine_args={"quantization": "awq"}), "weights") == 2543


def test_large_gpus_are_given_larger_steps(tmp_path: Path) -> None:
    found = folder(tmp_path, LLAMA)
    small, large = (mib(need(found, total=total), "activations") for total in (48_000, 81_000))
    assert large > 2 * small


def measured(found: Estimate, other_mib: int) -> Measured:
    return Measured(model="m", kind=CUDA, made_of=found.made_of, other_mib=other_mib)


def test_what_was_measured_replaces_all_but_the_cache(tmp_path: Path) -> None:
    found = folder(tmp_path, LLAMA)
    spec = ModelSpec(id="m", max_model_len=8192)
    first = estimate(spec, found, CUDA)
    seen = measured(first, 17_000)
    second = estimate(spec, found, CUDA, measured=seen)
    assert second.source is Source.MEASURED
    assert second.mib == 17_000 + mib(first, "KV cache")
    longer = estimate(replace(spec, max_model_len=16384), found, CUDA, measured=seen)
    assert longer.source is Source.MEASURED  # another cache, and the same of the rest
    assert estimate(spec, replace(found, weights=None), CUDA, measured=seen).mib == second.mib
    declared = estimate(replace(spec, memory_mib=30_000), found, CUDA, measured=seen)
    assert (declared.source, declared.mib, declared.kv_mib) == (Source.DECLARED, 30_000, 13_000)


@pytest.mark.parametrize(
    "changed",
    [
        {"engine_args": {"dtype": "float32"}},
        {"engine_args": {"enforce_eager": True}},
        {"engine_args": {"tensor_parallel_size": 2}},
        {"engine_args": {"max_num_batched_tokens": 512}},
        {"id": "other"},
    ],
)
def test_what_was_measured_under_other_settings_does_not_count(tmp_path: Path, changed: dict[str, Any]) -> None:
    found = folder(tmp_path, LLAMA)
    spec = ModelSpec(id="m", max_model_len=8192)
    seen = measured(estimate(spec, found, CUDA), 17_000)
    assert estimate(replace(spec, **changed), found, CUDA, measured=seen).source is Source.ESTIMATED
    assert estimate(spec, found, CPU, measured=seen).source is Source.ESTIMATED
    other = folder(tmp_path / "other", LLAMA | {"num_hidden_layers": 31})
    assert estimate(spec, other, CUDA, measured=seen).source is Source.ESTIMATED


def test_a_measurement_can_be_kept() -> None:
    seen = Measured(model="m", kind=CUDA, made_of="0a1b", other_mib=5)
    assert Measured.from_json(json.loads(json.dumps(seen.to_json()))) == seen
    with pytest.raises((KeyError, ValueError)):
        Measured.from_json({"model": "m", "kind": "abacus", "made_of": "", "other_mib": 5})


@pytest.mark.parametrize(
    ("mib_", "total", "share"),
    [(24_600, 48_000, 0.5), (10_400, 46_068, 0.2127), (100, 48_000, 0.01), (90_000, 48_000, 0.99)],
)
def test_the_share_of_a_device_leaves_the_driver_its_part(mib_: int, total: int, share: float) -> None:
    assert gpu_memory_utilization(mib_, total) == share
