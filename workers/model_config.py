"""What a model's config.json says about it, in vLLM's terms. Pure: it is given the parsed file.

Where vLLM 0.32 works something out from several keys, such as the length of context,
the rule here is vLLM's own, so that what is shown is what the engine will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workers.model_numbers import ShapeError
from workers.model_shape import ModelShape, shape

# The parts of a multimodal model's config.json that describe its language model.
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Whose length in config.json is the scaled one already.
_SCALED = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})
# vLLM's assumption for a model that says nothing.
_DEFAULT_LENGTH = 2048
_LONGEST = 1 << 30
_DTYPES = {
    "float32": "float32",
    "float": "float32",
    "float16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "float64": "float32",
}
_USUAL_BITS = {"awq": 4, "auto_awq": 4, "gptq": 4, "auto_gptq": 4, "mxfp4": 4, "modelopt_fp4": 4, "bitsandbytes": 4}


class ConfigError(Exception):
    """config.json is not that of a model. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    method: str
    """By vLLM's name where it has one: awq, gptq, fp8, compressed-tensors, …"""
    bits: int
    group: int
    """Weights that share a scale; 0 when a whole column does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    architecture: str
    model_type: str
    """Of the language model, for one that is part of something larger."""
    dtype: str
    """In which it computes unless it is told otherwise: bfloat16, float16 or float32."""
    quantization: Quantization | None
    context: int
    """Tokens of prompt and answer together that it was made for."""
    remote_code: bool
    """The folder brings Python code of its own, to be run when the model is loaded."""
    shape: ModelShape | None
    shape_problem: str | None
    """Why there is no shape."""


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """Raises ConfigError."""
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ConfigError("config.json names no architecture")
    text = _text_part(config)
    model_type = text.get("model_type", config.get("model_type", ""))
    if not isinstance(model_type, str):
        raise ConfigError("config.json: model_type is not text")
    problem = None
    try:
        numbers = shape({**text, "tie_word_embeddings": _tied(config, text)}, model_type)
    except ShapeError as error:
        numbers, problem = None, str(error)
    return ModelConfig(
        architecture=architectures[0],
        model_type=model_type,
        dtype=_dtype(config, text),
        quantization=_quantization(config, text),
        context=_context(text, model_type),
        remote_code="auto_map" in config or "auto_map" in text,
        shape=numbers,
        shape_problem=problem,
    )


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    part: Mapping[str, Any] = config
    for _ in range(2):  # Qwen's omni models have it in the second level
        part = next((found for name in _TEXT_PARTS if isinstance(found := part.get(name), dict)), part)
    return part


def _tied(config: Mapping[str, Any], text: Mapping[str, Any]) -> Any:
    return text.get("tie_word_embeddings", config.get("tie_word_embeddings"))


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """As vLLM: a model that is stored in 32 bits, or says nothing, is computed in 16."""
    named = next((part[key] for part in (text, config) for key in ("dtype", "torch_dtype") if part.get(key)), "float32")
    found = _DTYPES.get(named, "float32") if isinstance(named, str) else "float32"
    return "bfloat16" if found == "float32" else found


def _quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> Quantization | None:
    found = next(
        (
            part[key]
            for part in (config, text)
            for key in ("quantization_config", "compression_config")
            if part.get(key)
        ),
        None,
    )
    if not isinstance(found, dict):
        return None
    method = str(found.get("quant_method", "")).lower()
    method = {"compressed_tensors": "compressed-tensors", "auto-round": "inc"}.get(method, method)
    if not method:
        return None
    weights = _compressed(found)
    usual = 8 if found.get("load_in_8bit") is True else _USUAL_BITS.get(method, 8)
    bits = found.get("bits", found.get("w_bit", weights.get("num_bits", usual)))
    group = found.get("group_size", found.get("q_group_size", weights.get("group_size", 0)))
    return Quantization(
        method=method[:40],
        bits=bits if type(bits) is int and 1 <= bits <= 16 else 8,
        group=group if type(group) is int and 0 < group < 1 << 16 else 0,
    )


def _compressed(quantization: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how compressed-tensors wrote the weights of its first group of layers."""
    groups = quantization.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    return weights if isinstance(weights, dict) else {}


def _context(text: Mapping[str, Any], model_type: str) -> int:
    lengths = [value for name in _LENGTHS if type(value := text.get(name)) is int and 0 < value <= _LONGEST]
    length = min(lengths, default=_DEFAULT_LENGTH)
    if type(own := text.get("model_max_length")) is int and 0 < own <= _LONGEST:
        length = own
    factor = 1.0
    if "gemma3" not in model_type:
        for rope in _ropes(text):
            kind = str(rope.get("rope_type", rope.get("type", "default")))
            if kind == "longrope" and type(short := text.get("original_max_position_embeddings")) is int and short > 0:
                return min(short, _LONGEST)
            scale = rope.get("factor")
            if kind not in _SCALED and isinstance(scale, int | float) and 1 <= scale <= 1024:
                factor = scale
    return int(length * factor)


def _ropes(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield how positions are written; a model may do it in several ways, for different kinds of layers."""
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(found := text.get(key), dict):
            nested = [part for part in found.values() if isinstance(part, dict)]
            yield from nested or [found]
            return
