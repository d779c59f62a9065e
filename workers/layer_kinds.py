"""Which of a model's layers remember what: the whole text, the end of it, or a fixed state.

Only the first kind needs memory for every token of a sequence. Kinds are found by the
keys that vendors use for them; a kind whose state has no known size is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.model_numbers import Numbers, ShapeError

_NAMES = {
    "full_attention": "full",
    "attention": "full",
    "global": "full",
    "sliding_attention": "sliding",
    "sliding_window": "sliding",
    "local": "sliding",
    "chunked_attention": "sliding",
    "linear_attention": "recurrent",
    "recurrent": "recurrent",
    "mamba": "recurrent",
    "mamba2": "recurrent",
    "conv": "recurrent",
    # Attention and a state side by side in one layer.
    "hybrid": "both",
    "mlp": "none",
    "moe": "none",
}
_PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
# One layer in so many attends to everything, where config.json leaves it to the code.
_FULL_EVERY = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4, "gpt_oss": 2}
_STATE_ONLY = frozenset({"mamba", "mamba2", "falcon_mamba"})
# Read a text once and remember nothing.
_ENCODERS = frozenset({"bert", "distilbert", "modernbert", "new", "nomic_bert", "roberta", "xlm-roberta"})
# A state is kept in 32 bits, and what a convolution looks back on in 16.
_STATE_BYTES, _CONV_BYTES = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKinds:
    """How many layers there are of each kind; a layer may be of two or of none."""

    full: int
    sliding: int = 0
    window: int = 0
    """Tokens that a sliding layer looks back on."""
    recurrent: int = 0
    state_bytes: int = 0
    """What one recurrent layer keeps of one sequence."""


def layer_kinds(config: Mapping[str, Any], n: Numbers, model_type: str, layers: int) -> LayerKinds:
    """Sort the layers. Raises ShapeError."""
    if model_type in _ENCODERS:
        return LayerKinds(full=0)
    kinds = _counted(config, n, model_type, layers)
    window = n.first("sliding_window", "attention_chunk_size", default=0)
    full, sliding = kinds["full"] + kinds["both"], kinds["sliding"]
    if not window:
        full, sliding = full + sliding, 0
    recurrent = kinds["recurrent"] + kinds["both"]
    return LayerKinds(
        full=full,
        sliding=sliding,
        window=window if sliding else 0,
        recurrent=recurrent,
        state_bytes=_state_bytes(n, model_type) if recurrent else 0,
    )


def _counted(config: Mapping[str, Any], n: Numbers, model_type: str, layers: int) -> Counter[str]:
    """Count the layers of each kind.

    1. A list of kinds, or a pattern of letters, says it layer by layer.
    2. An interval or a list of layers says which attend to everything; the others have a state.
    3. A window, unless it is switched off, is for all layers, or for all but one in so many.
    4. Else every layer attends to everything.
    """
    listed = config.get("layer_types") or config.get("layers_block_type")
    if isinstance(listed, list):
        return _named(listed, layers)
    if isinstance(pattern := config.get("hybrid_override_pattern"), str):
        return _named([_PATTERN.get(letter, letter) for letter in pattern[:layers]], layers)
    if (full := _full_among_states(config, n, model_type, layers)) is not None:
        return Counter(full=full, recurrent=layers - full)
    full = _full_among_windows(config, n, model_type, layers)
    return Counter(full=full, sliding=layers - full)


def _full_among_windows(config: Mapping[str, Any], n: Numbers, model_type: str, layers: int) -> int:
    if not n.first("sliding_window", default=0) or config.get("use_sliding_window") is False:
        return layers
    if model_type.startswith("qwen2"):
        return min(layers, n.first("max_window_layers", default=layers))
    every = n.first("sliding_window_pattern", default=_FULL_EVERY.get(model_type, 0))
    return layers // every if every else 0


def _named(listed: list[Any], layers: int) -> Counter[str]:
    if len(listed) < layers:
        raise ShapeError("config.json names the kinds of fewer layers than there are")
    if odd := [kind for kind in listed[:layers] if not isinstance(kind, str) or kind not in _NAMES]:
        raise ShapeError(f"config.json has layers of a kind that is not known here: {str(odd[0])[:40]!r}")
    return Counter(_NAMES[kind] for kind in listed[:layers])


def _full_among_states(config: Mapping[str, Any], n: Numbers, model_type: str, layers: int) -> int | None:
    """Return how many layers attend to everything in a model whose others have a state; None for other models."""
    if model_type in _STATE_ONLY:
        return 0
    if model_type.startswith(("qwen3_next", "qwen3_5")):
        return layers // max(1, n.first("full_attention_interval", default=4))
    if model_type == "jamba":
        period, offset = n.first("attn_layer_period", default=8), n.first("attn_layer_offset", default=4)
        return len(range(min(offset, layers), layers, max(1, period)))
    for key in ("full_attn_idxs", "attn_layer_indices"):
        if isinstance(listed := config.get(key), list):
            return min(layers, len(listed))
    if isinstance(linear := config.get("linear_attn_config"), dict) and isinstance(
        listed := linear.get("full_attn_layers"), list
    ):
        return min(layers, len(listed))
    return None


def _state_bytes(n: Numbers, model_type: str) -> int:
    """Return what one recurrent layer keeps of one sequence. Raises ShapeError for a kind that is not known here."""
    config = n.config
    if "linear_num_value_heads" in config:  # gated delta net
        keys = n.first("linear_num_key_heads") * n.first("linear_key_head_dim")
        value_heads, value_dim = n.first("linear_num_value_heads"), n.first("linear_value_head_dim")
        looks_back = (2 * keys + value_heads * value_dim) * (n.first("linear_conv_kernel_dim", default=4) - 1)
        return value_heads * value_dim * n.first("linear_key_head_dim") * _STATE_BYTES + looks_back * _CONV_BYTES
    if "conv_L_cache" in config:  # a short convolution and nothing else
        return n.first("hidden_size") * n.first("conv_L_cache") * _CONV_BYTES
    states = n.first("mamba_d_state", "ssm_state_size", "state_size", default=0)
    if not states:
        raise ShapeError(f"how much the state of a {model_type} layer takes is not known here")
    heads = n.first("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads", default=0)
    if heads:  # Mamba 2
        inner = heads * n.first("mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")
        groups = n.first("mamba_n_groups", "n_groups", "mamba_ngroups", default=1)
        channels = inner + 2 * groups * states
    else:
        inner = channels = n.first("mamba_expand", "expand", default=2) * n.first("hidden_size")
    looks_back = channels * (n.first("mamba_d_conv", "conv_kernel", "d_conv", default=4) - 1)
    return inner * states * _STATE_BYTES + looks_back * _CONV_BYTES
