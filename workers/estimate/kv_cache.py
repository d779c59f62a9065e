"""How many bytes of KV cache one sequence takes on one device."""

from __future__ import annotations

from workers.estimate.setup import Setup
from workers.model_shape import ModelShape

# What belongs to the scale of a vector by which sparse attention finds tokens.
_INDEX_SCALE_BYTES = 4


def bytes_per_sequence(shape: ModelShape, setup: Setup) -> int:
    """Return what a sequence of full length takes.

    1. Layers that attend to everything keep every token.
    2. Layers with a window keep the window, and the tokens of the step that is being worked on.
    3. Recurrent layers keep one state, however long the sequence is.
    """
    kinds, token = shape.kinds, bytes_per_token(shape, setup)
    total = kinds.full * _blocks(setup.context, setup) * setup.block * token
    if kinds.sliding:
        seen = min(kinds.window - 1 + setup.batch, setup.context)
        # One more block, since a window may begin in the middle of one.
        total += kinds.sliding * (_blocks(seen, setup) + 1) * setup.block * token
    total += kinds.recurrent * _divided(kinds.state_bytes, setup.tensor_parallel)
    return _divided(total, setup.pipeline_parallel)


def bytes_per_token(shape: ModelShape, setup: Setup) -> int:
    """Return what one layer keeps of one token on one device."""
    latent = shape.latent
    if latent is not None and latent.kept_short:
        # It is the same for all heads, so every device keeps all of it.
        index = latent.index_dim + _INDEX_SCALE_BYTES if latent.index_dim else 0
        return (latent.kv_rank + latent.rope_dim) * setup.cache_bytes + index
    dim = latent.nope_dim + latent.rope_dim if latent is not None else shape.head_dim
    # With more devices than heads, several devices keep the same head.
    heads = _divided(shape.kv_heads, setup.tensor_parallel)
    return 2 * heads * dim * setup.cache_bytes


def block_bytes(shape: ModelShape, setup: Setup) -> int:
    """Return the size of the block that vLLM sets aside and never uses."""
    attending = shape.kinds.full + shape.kinds.sliding
    return _divided(attending, setup.pipeline_parallel) * setup.block * bytes_per_token(shape, setup)


def _blocks(tokens: int, setup: Setup) -> int:
    return _divided(tokens, setup.block)


def _divided(number: int, parts: int) -> int:
    return -(-number // parts)
