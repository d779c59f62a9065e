"""Whether the vLLM that we run can serve a model, as far as its folder and its entry tell.

Said before a load is tried, in words that help: vLLM itself says some of it minutes
later, some in a traceback, and some of it only to its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.model_config import ConfigError, ModelConfig, model_config
from workers.model_folder import ModelFolder
from workers.vllm_names import ANSWERING, DRAFTING, DROPPED, EMBEDDING, QUANTIZATIONS, SCORING, VLLM

# vLLM makes an embedding model of one that writes text, and knows that by these ends of its name.
_CONVERTED = ("ForTextEncoding", "EmbeddingModel", "Model")
_FROM = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


def argument(engine_args: Mapping[str, Any], name: str) -> Any:
    """Return one of vLLM's arguments, however its name is spelled; None when it is not given."""
    return engine_args.get(name, engine_args.get(name.replace("_", "-")))


def effective_config(folder: ModelFolder, engine_args: Mapping[str, Any]) -> ModelConfig:
    """Return the folder's config under the entry's `hf_overrides`. Raises ConfigError."""
    overrides = argument(engine_args, "hf_overrides")
    return model_config({**folder.raw_config, **overrides}) if isinstance(overrides, dict) else folder.config


def refusal(folder: ModelFolder, engine_args: Mapping[str, Any], max_model_len: int | None) -> str | None:
    """Return why the model cannot be served, or None when nothing speaks against it."""
    try:
        config = effective_config(folder, engine_args)
    except ConfigError as error:
        return str(error)
    return (
        _foreign_code(folder, config, engine_args)
        or _no_weights(folder, engine_args)
        or _architecture(config.architecture, engine_args)
        or _quantization(config, engine_args)
        or _length(folder, config, max_model_len)
    )


def _foreign_code(folder: ModelFolder, config: ModelConfig, engine_args: Mapping[str, Any]) -> str | None:
    if not (config.remote_code or folder.tokenizer_code) or argument(engine_args, "trust_remote_code") is True:
        return None
    file = "config.json" if config.remote_code else "tokenizer_config.json"
    return (
        f"{file} has an auto_map: it brings Python code that would run with the worker's rights. "
        "If you trust it, give the model an entry with `engine_args: {trust_remote_code: true}`"
    )


def _no_weights(folder: ModelFolder, engine_args: Mapping[str, Any]) -> str | None:
    if folder.weights is not None or argument(engine_args, "load_format") not in (None, "safetensors"):
        return None
    if folder.other_weights:
        return f"its weights are not safetensors but {folder.other_weights[0]}, a format that is never loaded"
    return "it holds no *.safetensors (yet)"


def _architecture(name: str, engine_args: Mapping[str, Any]) -> str | None:
    if name in ANSWERING or name in EMBEDDING or argument(engine_args, "model_impl") not in (None, "auto", "vllm"):
        return None
    if name in SCORING or name.endswith(("Classification", "RewardModel", "RewardModeling")):
        return f"{name} ranks or classifies; only models that answer or embed can be served"
    if name in DRAFTING:
        return f"{name} only guesses ahead for another model, and is not served by itself"
    if name in DROPPED:
        return f"vLLM {VLLM} no longer has {name}; {DROPPED[name]} was the last that did"
    if any(name.endswith(end) and name.removesuffix(end) + base in ANSWERING for end in _CONVERTED for base in _FROM):
        return None
    return (
        f"vLLM {VLLM} does not have {name[:80]}. If the transformers library does, in a form that suits vLLM, "
        "give the model an entry with `engine_args: {model_impl: transformers}`"
    )


def _quantization(config: ModelConfig, engine_args: Mapping[str, Any]) -> str | None:
    asked = argument(engine_args, "quantization")
    for method in (asked, config.quantization.method if config.quantization else None):
        if isinstance(method, str) and method not in QUANTIZATIONS:
            return f"vLLM {VLLM} does not have the quantization {method[:40]!r}"
    return None


def _length(folder: ModelFolder, config: ModelConfig, max_model_len: int | None) -> str | None:
    if max_model_len is None or max_model_len <= config.context:
        return None
    longest = folder.raw_config.get("model_max_length")
    if isinstance(longest, int) and max_model_len <= longest:
        return None
    return f"max_model_len is {max_model_len:,}, but the model was made for {config.context:,} tokens"
