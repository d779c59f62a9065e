"""How many bytes the largest step of an engine takes beside weights and KV cache, on one device.

An upper bound of what vLLM finds when it tries a step of `max_num_batched_tokens`. For
Llama 3 8B, 8,192 tokens and 256 sequences it is 1.4 GiB, where vLLM reports 1.26.
"""

from __future__ import annotations

from workers.devices import DeviceKind
from workers.estimate.setup import Setup
from workers.model_shape import ModelShape

# The hidden state, its residual, and one of each while they are replaced.
_HIDDEN_COPIES = 4
# The scores of every token of the vocabulary in 32 bits, and copies of them while one token is chosen.
_SCORE_BYTES = 4 * 4
# A CPU adds up in 32 bits, whatever it is given.
_CPU_NUMBER_BYTES = 4


def bytes_per_step(shape: ModelShape, setup: Setup) -> int:
    parallel = setup.tensor_parallel
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    numbers = _HIDDEN_COPIES * shape.hidden + -(-max(attention, _feed_forward(shape)) // parallel)
    number_bytes = _CPU_NUMBER_BYTES if setup.kind is DeviceKind.CPU else setup.dtype_bytes
    return setup.batch * numbers * number_bytes + setup.seats * shape.vocab * _SCORE_BYTES


def _feed_forward(shape: ModelShape) -> int:
    matrices = 3 if shape.gated else 2
    if (experts := shape.experts) is None:
        return matrices * shape.intermediate
    chosen = experts.per_token * (max(matrices * experts.intermediate, shape.hidden) + experts.intermediate)
    return max(chosen, matrices * shape.intermediate if experts.dense_layers else 0)
