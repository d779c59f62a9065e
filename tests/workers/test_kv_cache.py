"""What a sequence keeps, by the kinds of a model's layers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.reference_models import CONFIGS
from workers.devices import DeviceKind
from workers.estimate.kv_cache import bytes_per_sequence, bytes_per_token
from workers.estimate.setup import setup
from workers.model_config import model_config

LLAMA = {name: value for name, value in CONFIGS["Llama-3.1-8B-Instruct"].items() if name != "rope_scaling"}
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
KIB = 1024


def per_token(engine_args: dict[str, Any] | None = None, **changed: Any) -> int:
    config = model_config(LLAMA | changed)
    assert config.shape is not None, config.shape_problem
    made = setup(engine_args or {}, config, DeviceKind.CUDA, max_model_len=8192, device_total_mib=None)
    return bytes_per_token(config.shape, made)


def per_sequence(length: int, kind: DeviceKind = DeviceKind.CUDA, **changed: Any) -> int:
    config = model_config(LLAMA | changed)
    assert config.shape is not None, config.shape_problem
    return bytes_per_sequence(config.shape, setup({}, config, kind, max_model_len=length, device_total_mib=None))


def test_a_layer_keeps_keys_and_values_of_every_head() -> None:
    assert per_token() == 2 * 8 * 128 * 2
    assert per_token({"dtype": "float32"}) == 2 * 8 * 128 * 4
    assert per_token({"dtype": "float32", "kv_cache_dtype": "fp8_e5m2"}) == 2 * 8 * 128
    assert per_token(head_dim=256) == 2 * 8 * 256 * 2


@pytest.mark.parametrize(("parallel", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_heads_are_shared_out_among_devices(parallel: int, heads: int) -> None:
    assert per_token({"tensor_parallel_size": parallel}) == 2 * heads * 128 * 2


def test_a_latent_vector_is_kept_whole_on_every_device() -> None:
    assert per_token(**DEEPSEEK) == (512 + 64) * 2
    assert per_token({"tensor_parallel_size": 8}, **DEEPSEEK) == (512 + 64) * 2
    assert per_token(**DEEPSEEK | {"model_type": "deepseek_v32", "index_head_dim": 128}) == (512 + 64) * 2 + 132


def test_a_latent_vector_that_vllm_does_not_keep_is_kept_as_heads() -> None:
    assert per_token(**DEEPSEEK | {"model_type": "minicpm3"}) == 2 * 128 * 192 * 2


def test_a_sequence_is_kept_in_whole_blocks() -> None:
    assert per_sequence(1) == per_sequence(16) == 32 * 16 * 4 * KIB
    assert per_sequence(17) == 32 * 32 * 4 * KIB
    assert per_sequence(1, DeviceKind.CPU) == 32 * 128 * 4 * KIB


def test_a_window_and_the_step_that_is_worked_on_is_all_that_is_kept() -> None:
    long = per_sequence(100_000, sliding_window=4096)
    # A step is 2,048 tokens; and a window may begin within a block.
    assert long == 32 * ((4095 + 2048 + 15) // 16 + 1) * 16 * 4 * KIB
    assert per_sequence(131_000, sliding_window=4096) == long
    assert per_sequence(1024, sliding_window=4096) == per_sequence(1024) + 32 * 16 * 4 * KIB


def test_layers_of_both_kinds_keep_what_each_keeps() -> None:
    mixed = per_sequence(100_000, sliding_window=4096, sliding_window_pattern=2)
    assert mixed == (per_sequence(100_000) + per_sequence(100_000, sliding_window=4096)) // 2


def test_a_state_is_as_large_for_a_word_as_for_a_book() -> None:
    mamba: dict[str, Any] = {
        "model_type": "mamba",
        "state_size": 16,
        "num_attention_heads": None,
        "num_key_value_heads": None,
    }
    assert per_sequence(1, **mamba) == per_sequence(100_000, **mamba) == 32 * (8192 * 16 * 4 + 8192 * 3 * 2)


def test_an_encoder_keeps_nothing() -> None:
    assert per_sequence(512, model_type="bert") == 0
