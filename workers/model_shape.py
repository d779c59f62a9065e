"""The numbers of a config.json that memory depends on, under one set of names.

Vendors spell the same number in half a dozen ways. What no rule here understands is an
error and never a guess: an estimate that leaves out half of a model is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.layer_kinds import LayerKinds, layer_kinds
from workers.model_numbers import Numbers, ShapeError

# Two matrices in a block's feed-forward part, where others have a third for the gate.
_UNGATED = frozenset(
    {"bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "nemotron", "opt", "phi", "starcoder2"}
)
# Whose output matrix is the embedding again where config.json says nothing.
_TIED = ("bloom", "falcon", "gemma", "gpt2", "gpt_bigcode", "opt")
# Those of which vLLM keeps the short vector; of others it keeps the keys and values made from it.
_KEPT_SHORT = frozenset(
    {
        "axk1",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "kimi_k2",
        "kimi_linear",
        "longcat_flash",
        "pangu_ultra_moe",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek): a token's keys and values are made from one short vector."""

    kept_short: bool
    """vLLM keeps the vector, and not what is made from it."""
    q_rank: int
    """0 when queries are not compressed."""
    kv_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    index_dim: int
    """Of a second vector by which sparse attention finds the tokens that matter; 0 when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts, in all layers but the first few."""

    count: int
    intermediate: int
    shared_intermediate: int
    dense_layers: int
    per_token: int
    """How many of them work on one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """One decoder. `hidden` and the like are numbers of elements."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    qkv_bias: bool
    tied: bool
    """The output matrix is the embedding again."""
    latent: Latent | None
    experts: Experts | None
    kinds: LayerKinds


def shape(config: Mapping[str, Any], model_type: str) -> ModelShape:
    """Read a text model's part of a config.json. Raises ShapeError."""
    n = Numbers(config)
    hidden = n.first("hidden_size", "n_embd", "d_model")
    layers = n.first("num_hidden_layers", "n_layer", "num_layers")
    heads = n.first("num_attention_heads", "n_head", default=0)
    tied = config.get("tie_word_embeddings")
    if "compress_ratios" in config:
        raise ShapeError("how much the compressed attention of this model keeps is not known here")
    head_dim = n.first("head_dim", "attention_head_dim", default=0) or (hidden // heads if heads else 0)
    return ModelShape(
        vocab=n.first("vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(n, config, model_type, heads),
        head_dim=head_dim,
        intermediate=n.first("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", default=4 * hidden),
        gated=model_type not in _UNGATED,
        qkv_bias=config.get("attention_bias") is True or model_type in {"qwen2", "qwen2_moe"},
        tied=tied if isinstance(tied, bool) else model_type.startswith(_TIED),
        latent=_latent(n, model_type),
        experts=_experts(n, layers),
        kinds=layer_kinds(config, n, model_type, layers),
    )


def _kv_heads(n: Numbers, config: Mapping[str, Any], model_type: str, heads: int) -> int:
    if (
        model_type == "falcon"
        and config.get("multi_query") is True
        and config.get("new_decoder_architecture") is not True
    ):
        return 1
    return n.first(
        "num_key_value_heads",
        "n_head_kv",
        "num_kv_heads",
        "multi_query_group_num",
        "num_attention_groups",
        default=heads,
    )


def _latent(n: Numbers, model_type: str) -> Latent | None:
    kv_rank = n.first("kv_lora_rank", default=0)
    if not kv_rank:
        return None
    return Latent(
        kept_short=model_type in _KEPT_SHORT,
        q_rank=n.first("q_lora_rank", default=0),
        kv_rank=kv_rank,
        rope_dim=n.first("qk_rope_head_dim"),
        nope_dim=n.first("qk_nope_head_dim"),
        value_dim=n.first("v_head_dim"),
        index_dim=n.first("index_head_dim", default=0),
    )


def _experts(n: Numbers, layers: int) -> Experts | None:
    count = n.first("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", default=0)
    if count <= 1:
        return None
    intermediate = n.first("moe_intermediate_size", "intermediate_size")
    shared = n.first("n_shared_experts", "num_shared_experts", default=0) * intermediate
    dense = n.first("first_k_dense_replace", default=0)
    if dense > layers:
        raise ShapeError("first_k_dense_replace is more than there are layers")
    return Experts(
        count=count,
        intermediate=intermediate,
        shared_intermediate=n.first("shared_expert_intermediate_size", "shared_intermediate_size", default=shared),
        dense_layers=dense,
        per_token=n.first("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", default=8),
    )
