"""How many bytes a model's weights take once they are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from workers.model_config import Quantization
from workers.model_shape import Experts, Latent, ModelShape
from workers.weights import BITS, Weights

_FLOATS = ("F64", "F32", "F16", "BF16")
# Bits of one weight when vLLM quantizes while it loads.
_WHILE_LOADING = {"nvfp4_per_token": 4, "mxfp4": 4}


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many numbers a model consists of."""

    embedding: int
    """The table of tokens, and the output matrix where it is another; never quantized."""
    layers: int


def stored_bytes(weights: Weights, *, dtype_bytes: int, quantized: bool) -> int:
    """Return what the tensors of a folder take as they are loaded: numbers become the engine's kind of number.

    In a quantized model what is left of them are mostly scales, which stay as they are.
    """
    return sum(
        size * dtype_bytes * 8 // BITS[dtype] if dtype in _FLOATS and not quantized else size
        for dtype, size in weights.bytes_by_dtype.items()
    )


def computed_bytes(shape: ModelShape, *, dtype_bytes: int, quantization: Quantization | None) -> int:
    """Return what the weights take by the numbers of config.json, as when they are not here yet.

    Raises ValueError for a model with other layers than attention.
    """
    count = parameters(shape)
    if quantization is None:
        return (count.embedding + count.layers) * dtype_bytes
    scale_bits = (16 + quantization.bits) / quantization.group if quantization.group else 0
    return int(count.embedding * dtype_bytes + count.layers * (quantization.bits + scale_bits) / 8)


def quantized_while_loading(full_bytes: int, shape: ModelShape, *, method: str, dtype_bytes: int) -> int:
    """Return what is left of `full_bytes` of weights that vLLM quantizes as it loads them."""
    embedding = min(full_bytes, parameters(shape).embedding * dtype_bytes)
    return embedding + (full_bytes - embedding) * _WHILE_LOADING.get(method, 8) // (8 * dtype_bytes)


def parameters(shape: ModelShape) -> Parameters:
    """Count a decoder's parameters. Raises ValueError for a model with other layers than attention."""
    if shape.kinds.recurrent:
        raise ValueError("how many parameters its layers without attention have is not known here")
    attention = _latent(shape, shape.latent) if shape.latent is not None else _attention(shape)
    each = attention + 2 * shape.hidden  # two norms
    matrices = 3 if shape.gated else 2
    layers = shape.layers * each + shape.hidden
    if shape.experts is None:
        layers += shape.layers * matrices * shape.hidden * shape.intermediate
    else:
        layers += _experts(shape, shape.experts, matrices)
    return Parameters(shape.vocab * shape.hidden * (1 if shape.tied else 2), layers)


def _attention(shape: ModelShape) -> int:
    inner, kept = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    bias = inner + 2 * kept if shape.qkv_bias else 0
    return shape.hidden * (inner + 2 * kept) + inner * shape.hidden + bias


def _latent(shape: ModelShape, latent: Latent) -> int:
    query_dim = shape.heads * (latent.nope_dim + latent.rope_dim)
    queries = latent.q_rank * (shape.hidden + query_dim) if latent.q_rank else shape.hidden * query_dim
    down = shape.hidden * (latent.kv_rank + latent.rope_dim)
    up = latent.kv_rank * shape.heads * (latent.nope_dim + latent.value_dim)
    return queries + down + up + shape.heads * latent.value_dim * shape.hidden


def _experts(shape: ModelShape, experts: Experts, matrices: int) -> int:
    mixed = shape.layers - experts.dense_layers
    dense = experts.dense_layers * matrices * shape.hidden * shape.intermediate
    each = experts.count * experts.intermediate + experts.shared_intermediate
    return dense + mixed * (matrices * shape.hidden * each + shape.hidden * experts.count)
