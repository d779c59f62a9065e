"""The settings of an engine that its memory depends on: the entry's, or what vLLM does without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.devices import DeviceKind
from workers.model_config import ModelConfig
from workers.servable import argument

CPU_SEATS = 64
# As vLLM 0.32 chooses for its server: tokens of one step, and sequences, by the size of the GPU.
_CPU_BATCH = 2048
_GPU_DEFAULTS = ((160 << 10, 16384, 1024), (70 << 10, 8192, 1024), (0, 2048, 256))
_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
# Of one number in the KV cache, with what belongs to its scale left out.
_CACHE_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1, "bfloat16": 2, "float16": 2}
# Without `max_num_seqs`: as many answers of full length as make so many tokens.
_CACHED_TOKENS = 32_768
_BLOCK = {DeviceKind.CPU: 128, DeviceKind.CUDA: 16, DeviceKind.ROCM: 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    kind: DeviceKind
    tensor_parallel: int
    pipeline_parallel: int
    context: int
    """Tokens of prompt and answer together."""
    seats: int
    """Sequences that a step may work on."""
    sequences: int
    """How many of full length the KV cache should hold at once."""
    batch: int
    """Tokens of one step."""
    dtype_bytes: int
    cache_bytes: int
    """Of one number in the KV cache."""
    block: int
    """Tokens for which the KV cache is handed out at once."""
    quantization: str | None
    """To be applied while loading, to weights that are stored without."""
    graphs: bool
    """Steps are recorded as CUDA graphs."""
    utilization: float | None
    """The share of a device that the entry asks for; None: as little as is needed."""
    cache_mib: int | None
    """The size of the KV cache that the entry asks for."""

    @property
    def processes(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def devices(self) -> int:
        """On the CPU all of its processes share the one device there is."""
        return 1 if self.kind is DeviceKind.CPU else self.processes


def setup(
    engine_args: Mapping[str, Any],
    config: ModelConfig,
    kind: DeviceKind,
    *,
    max_model_len: int | None,
    device_total_mib: int | None,
) -> Setup:
    """Return what the engine will run under; an argument of the wrong kind counts as not given."""
    batch, _ = _defaults(kind, device_total_mib)
    context = max_model_len or config.context
    given = _positive(engine_args, "max_num_seqs")
    seats = seats_of(engine_args, kind, device_total_mib)
    dtype = _BYTES.get(str(argument(engine_args, "dtype")), _BYTES[config.dtype])
    cache = argument(engine_args, "kv_cache_memory_bytes")
    share = argument(engine_args, "gpu_memory_utilization")
    return Setup(
        kind=kind,
        tensor_parallel=_positive(engine_args, "tensor_parallel_size") or 1,
        pipeline_parallel=_positive(engine_args, "pipeline_parallel_size") or 1,
        context=context,
        seats=seats,
        sequences=given or max(1, min(seats, _CACHED_TOKENS // context)),
        # Without chunks a prompt is taken in one step.
        batch=_positive(engine_args, "max_num_batched_tokens") or batch,
        dtype_bytes=dtype,
        cache_bytes=_CACHE_BYTES.get(str(argument(engine_args, "kv_cache_dtype")), dtype),
        block=_positive(engine_args, "block_size") or _BLOCK[kind],
        quantization=None if config.quantization else _text(argument(engine_args, "quantization")),
        graphs=kind is not DeviceKind.CPU and argument(engine_args, "enforce_eager") is not True,
        utilization=float(share) if isinstance(share, int | float) and 0 < share <= 1 else None,
        cache_mib=cache >> 20 if type(cache) is int and cache > 0 else None,
    )


def seats_of(engine_args: Mapping[str, Any], kind: DeviceKind, device_total_mib: int | None) -> int:
    """Return how many requests a replica answers at once."""
    return _positive(engine_args, "max_num_seqs") or _defaults(kind, device_total_mib)[1]


def device_count(engine_args: Mapping[str, Any], kind: DeviceKind) -> int:
    """Return how many devices one replica takes."""
    parts = [_positive(engine_args, name) or 1 for name in ("tensor_parallel_size", "pipeline_parallel_size")]
    return 1 if kind is DeviceKind.CPU else parts[0] * parts[1]


def _defaults(kind: DeviceKind, device_total_mib: int | None) -> tuple[int, int]:
    if kind is DeviceKind.CPU:
        return _CPU_BATCH, CPU_SEATS
    return next((batch, seats) for least, batch, seats in _GPU_DEFAULTS if (device_total_mib or 0) >= least)


def _positive(engine_args: Mapping[str, Any], name: str) -> int | None:
    value = argument(engine_args, name)
    return value if type(value) is int and 0 < value < 1 << 30 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
