"""config.json in vLLM's terms."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.reference_models import CONFIGS
from workers.layer_kinds import LayerKinds
from workers.model_config import ConfigError, ModelConfig, Quantization, model_config

LLAMA = CONFIGS["Llama-3.1-8B-Instruct"]
PLAIN = {name: value for name, value in LLAMA.items() if name != "rope_scaling"}


def read(**changed: Any) -> ModelConfig:
    return model_config(PLAIN | changed)


def kinds(**changed: Any) -> LayerKinds:
    found = read(**changed)
    assert found.shape is not None, found.shape_problem
    return found.shape.kinds


def test_the_numbers_have_one_name_whatever_the_maker_calls_them() -> None:
    gpt2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12}
    shape = model_config(gpt2 | {"vocab_size": 50257, "n_inner": None, "n_positions": 1024}).shape
    assert shape is not None
    assert (shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == (768, 12, 12, 12, 64)
    assert (shape.intermediate, shape.gated, shape.tied) == (3072, False, True)


def test_a_model_that_also_sees_is_read_by_its_language_part() -> None:
    found = model_config(
        {
            "architectures": ["Qwen2_5OmniModel"],
            "model_type": "qwen2_5_omni",
            "thinker_config": {"vision_config": {"hidden_size": 5}, "text_config": PLAIN | {"model_type": "qwen2"}},
        }
    )
    assert (found.architecture, found.model_type, found.context) == ("Qwen2_5OmniModel", "qwen2", 131072)
    assert found.shape is not None
    assert found.shape.hidden == 4096


@pytest.mark.parametrize(
    ("changed", "context"),
    [
        ({}, 131072),
        ({"max_position_embeddings": None}, 2048),
        ({"max_position_embeddings": None, "n_positions": 1024, "seq_length": 4096}, 1024),
        ({"model_max_length": 4096}, 4096),
        ({"rope_scaling": LLAMA["rope_scaling"]}, 131072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "dynamic", "factor": 2}}, 8192),
        ({"max_position_embeddings": 65536, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 65536),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 4096, "rope_parameters": {"full": {"rope_type": "linear", "factor": 8}}}, 32768),
        (
            {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096},
            4096,
        ),
        ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 131072),
        ({"rope_scaling": {"rope_type": "linear", "factor": None}}, 131072),
        ({"rope_scaling": {"rope_type": ["linear"], "factor": "1e9"}}, 131072),
        ({"max_position_embeddings": "many", "rope_scaling": []}, 2048),
        ({"max_position_embeddings": 10**30}, 2048),
    ],
)
def test_the_length_of_context_is_what_vllm_makes_of_it(changed: dict[str, Any], context: int) -> None:
    assert read(**changed).context == context


@pytest.mark.parametrize(
    ("changed", "dtype"),
    [
        ({"torch_dtype": "float16"}, "float16"),
        ({"torch_dtype": None, "dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float32"}, "bfloat16"),
        ({"torch_dtype": None}, "bfloat16"),
        ({"torch_dtype": ["float16"]}, "bfloat16"),
        ({"torch_dtype": "complex64"}, "bfloat16"),
    ],
)
def test_what_is_stored_in_32_bits_is_computed_in_16(changed: dict[str, Any], dtype: str) -> None:
    assert read(**changed).dtype == dtype


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, ("awq", 4, 128)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, ("gptq", 8, 0)),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, ("fp8", 8, 0)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("bitsandbytes", 4, 0)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ("bitsandbytes", 8, 0)),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
            },
            ("compressed-tensors", 4, 32),
        ),
        ({"quant_method": "auto-round", "bits": 4}, ("inc", 4, 0)),
        ({"quant_method": "awq", "bits": -3, "group_size": "x"}, ("awq", 8, 0)),
        ({"quant_method": ""}, None),
        ({}, None),
        ("awq", None),
    ],
)
def test_the_quantization_is_recognised(config: Any, expected: tuple[str, int, int] | None) -> None:
    made = None if expected is None else Quantization(method=expected[0], bits=expected[1], group=expected[2])
    assert read(quantization_config=config).quantization == made


@pytest.mark.parametrize(
    ("changed", "full", "sliding", "window"),
    [
        ({}, 32, 0, 0),
        ({"sliding_window": 4096}, 0, 32, 4096),
        ({"sliding_window": 4096, "use_sliding_window": False}, 32, 0, 0),
        (
            {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 21},
            21,
            11,
            4096,
        ),
        ({"model_type": "gemma2", "sliding_window": 4096}, 16, 16, 4096),
        ({"sliding_window": 512, "sliding_window_pattern": 6}, 5, 27, 512),
        ({"sliding_window": 128, "layer_types": ["full_attention", "sliding_attention"] * 16}, 16, 16, 128),
        ({"sliding_window": None, "layer_types": ["full_attention", "sliding_attention"] * 16}, 32, 0, 0),
        (
            {"attention_chunk_size": 8192, "layer_types": ["chunked_attention"] * 24 + ["full_attention"] * 8},
            8,
            24,
            8192,
        ),
    ],
)
def test_layers_with_a_window_are_told_from_those_without(
    changed: dict[str, Any], full: int, sliding: int, window: int
) -> None:
    assert kinds(**changed) == LayerKinds(full=full, sliding=sliding, window=window)


DELTA = {
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}


@pytest.mark.parametrize(
    ("changed", "full", "recurrent", "state_bytes"),
    [
        ({"model_type": "qwen3_next", **DELTA}, 8, 24, 32 * 128 * 128 * 4 + 8192 * 3 * 2),
        ({"layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8, **DELTA}, 8, 24, 2146304),
        ({"model_type": "lfm2", "full_attn_idxs": [2, 5, 8], "conv_L_cache": 3}, 3, 29, 4096 * 3 * 2),
        ({"model_type": "jamba", "mamba_d_state": 16, "mamba_expand": 2}, 4, 28, 8192 * 16 * 4 + 8192 * 3 * 2),
        (
            {
                "hybrid_override_pattern": "M-M*M-ME" * 4,
                "mamba_num_heads": 8,
                "mamba_head_dim": 64,
                "ssm_state_size": 128,
            },
            4,
            16,
            512 * 128 * 4 + (512 + 256) * 3 * 2,
        ),
        ({"model_type": "mamba", "state_size": 16, "expand": 2}, 0, 32, 573440),
        ({"model_type": "falcon_h1", "layer_types": ["hybrid"] * 32, "mamba_d_state": 16}, 32, 32, 573440),
    ],
)
def test_layers_with_a_state_keep_it_and_nothing_else(
    changed: dict[str, Any], full: int, recurrent: int, state_bytes: int
) -> None:
    assert kinds(**changed) == LayerKinds(full=full, recurrent=recurrent, state_bytes=state_bytes)


def test_an_encoder_remembers_nothing() -> None:
    assert kinds(model_type="bert") == LayerKinds(full=0)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"hidden_size": None}, "config.json has no hidden_size"),
        ({"hidden_size": "4096"}, "hidden_size is not a number we can use"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is not a number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is not a number"),
        ({"vocab_size": 10**12}, "vocab_size is not a number"),
        ({"layer_types": ["full_attention"]}, "fewer layers than there are"),
        ({"layer_types": ["telepathy"] * 32}, "of a kind that is not known here: 'telepathy'"),
        ({"layer_types": [{}] * 32}, "of a kind that is not known here"),
        ({"hybrid_override_pattern": "Z" * 32}, "of a kind that is not known here: 'Z'"),
        ({"layer_types": ["mamba"] * 32}, "state of a llama layer takes is not known"),
        ({"compress_ratios": [4]}, "compressed attention"),
        ({"kv_lora_rank": 512}, "config.json has no qk_rope_head_dim"),
        ({"num_experts": 8, "first_k_dense_replace": 99}, "first_k_dense_replace"),
    ],
)
def test_what_is_not_understood_is_said_and_not_guessed(changed: dict[str, Any], why: str) -> None:
    found = read(**changed)
    assert found.shape is None
    assert found.shape_problem is not None
    assert why in found.shape_problem


@pytest.mark.parametrize("config", [{}, {"architectures": []}, {"architectures": "X"}, {"architectures": [5]}])
def test_a_config_without_an_architecture_is_not_that_of_a_model(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="names no architecture"):
        model_config(config)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
_KEYS = sorted({*PLAIN, *DELTA, "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "text_config"})


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=4))
def test_a_config_is_understood_or_refused_whatever_it_says(changed: dict[str, Any]) -> None:
    try:
        found = read(**changed)
    except ConfigError:
        return
    assert (found.shape is None) == (found.shape_problem is not None)
    assert found.context > 0


def test_code_of_its_own_is_noticed() -> None:
    assert not read().remote_code
    assert read(auto_map={"AutoModel": "modeling_x.X"}).remote_code
    assert read(text_config=PLAIN | {"auto_map": {}}).remote_code
