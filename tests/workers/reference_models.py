"""Models that everybody knows, as folders: the published config.json, and weights of the right size that hold nothing.

The weights are sparse files: a 30 GB model takes a few kilobytes of disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
_QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "max_window_layers": 70,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
_QWEN25_14B = {
    **_QWEN25,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "quantization_config": _AWQ,
    "rope_scaling": None,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
_QWEN3_4B = {**_QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}

CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen2.5-14B-Instruct-AWQ": {
        **_QWEN25_14B,
        "max_position_embeddings": 32768,
        "quantization_config": _AWQ,
        "torch_dtype": "float16",
    },
    "Qwen3-4B-AWQ": _QWEN3_4B,
    "Qwen3-8B-AWQ": {**_QWEN3, "hidden_size": 4096, "intermediate_size": 12288},
    "Qwen3-14B-AWQ": {
        **_QWEN3,
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
    },
    "Qwen3-4B-Instruct-2507-AWQ": {**_QWEN3_4B, "max_position_embeddings": 262144},
    "Llama-3.1-8B-Instruct": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 128256,
    },
    "Mistral-7B-Instruct-v0.2": {
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 32000,
    },
    "Qwen2.5-7B-Instruct-Uncensored": {
        **_QWEN25,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "torch_dtype": "bfloat16",
    },
    "DeepSeek-R1-Distill-Qwen-14B-uncensored": {
        **_QWEN25_14B,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    },
    "Qwen2.5-0.5B-Instruct": {
        **_QWEN25,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": 151936,
    },
}


def write_model(folder: Path, config: dict[str, Any], *, shards: int = 1) -> Path:
    """Make a folder of a model that consists of Llama's or Qwen's layers."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = list(_tensors(config))
    parts = [tensors[start::shards] for start in range(shards)]
    names = (
        [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)] if shards > 1 else ["model.safetensors"]
    )
    for name, part in zip(names, parts, strict=True):
        write_safetensors(folder / name, {tensor: (dtype, shape) for tensor, dtype, shape in part})
    if shards > 1:
        weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor, _, _ in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + at)


def _tensors(config: dict[str, Any]) -> Iterator[tuple[str, str, list[int]]]:
    hidden, vocab, inner = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    heads, kept = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim", hidden // heads)
    dtype = {"float16": "F16", "bfloat16": "BF16"}[config["torch_dtype"]]
    yield "model.embed_tokens.weight", dtype, [vocab, hidden]
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", dtype, [vocab, hidden]
    yield "model.norm.weight", dtype, [hidden]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", dtype, [hidden]
        yield f"{layer}.post_attention_layernorm.weight", dtype, [hidden]
        if config["model_type"] == "qwen3":
            yield f"{layer}.self_attn.q_norm.weight", dtype, [dim]
            yield f"{layer}.self_attn.k_norm.weight", dtype, [dim]
        matrices = {
            "self_attn.q_proj": (hidden, heads * dim),
            "self_attn.k_proj": (hidden, kept * dim),
            "self_attn.v_proj": (hidden, kept * dim),
            "self_attn.o_proj": (heads * dim, hidden),
            "mlp.gate_proj": (hidden, inner),
            "mlp.up_proj": (hidden, inner),
            "mlp.down_proj": (inner, hidden),
        }
        for name, (rows, columns) in matrices.items():
            if config["model_type"] == "qwen2" and name[-6:] in {"q_proj", "k_proj", "v_proj"}:
                yield f"{layer}.{name}.bias", dtype, [columns]
            if "quantization_config" in config:
                yield f"{layer}.{name}.qweight", "I32", [rows, columns // 8]
                yield f"{layer}.{name}.qzeros", "I32", [rows // 128, columns // 8]
                yield f"{layer}.{name}.scales", "F16", [rows // 128, columns]
            else:
                yield f"{layer}.{name}.weight", dtype, [columns, rows]
