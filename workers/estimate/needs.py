"""What one replica of a model needs on each of its devices, with every term by name.

    weights + activations + CUDA graphs + runtime + KV cache

The KV cache is the one term that can be chosen: it is as large as `max_model_len` times
`max_num_seqs` asks for, or what a declared `memory_mib` leaves, and at the least one
sequence of full length, below which vLLM does not start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from workers.devices import DeviceKind
from workers.estimate import activations, kv_cache, parameters
from workers.estimate.measured import Measured, made_of
from workers.estimate.setup import Setup, device_count, setup
from workers.model_config import ConfigError, ModelConfig
from workers.model_folder import ModelFolder
from workers.model_shape import ModelShape
from workers.registry import ModelSpec
from workers.servable import effective_config

# What an engine's two processes take on a CPU whatever the model (measured: 1,050 to 1,100 MiB), and each further one.
CPU_RUNTIME_MIB = 1100
_CPU_PROCESS_MIB = 600
# What a driver takes for a process with vLLM's kernels, which vLLM does not count into its share of the device.
CONTEXT_MIB = 600
# Work space of the libraries for matrices and attention, and of the one that devices talk through.
_LIBRARIES_MIB, _COLLECTIVES_MIB = 300, 400
# Of the graphs that vLLM records, for each layer (0.36 to 1 GiB is reported for models of 30 to 60).
_GRAPHS_MIB_PER_LAYER = 16
# Of a device, so much is never asked for: what the driver and other processes take comes and goes.
_SPARED = 0.03
_DECLARED = "memory_mib of models.yaml"


class NeedUnknownError(Exception):
    """There is nothing to estimate from. The text says what is missing, and what to do."""


class Source(StrEnum):
    DECLARED = "declared"
    MEASURED = "measured"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True)
class Term:
    name: str
    mib: int
    how: str
    """What it was worked out from, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Memory of one replica. All figures are for each of its `devices` devices."""

    source: Source
    terms: tuple[Term, ...]
    devices: int
    mib: int
    """What should be reserved: the sum of the terms."""
    least_mib: int
    """The same with a KV cache for one sequence of full length, below which vLLM refuses to start; but
    no less than `mib` where the entry says how much is taken."""
    kv_mib: int | None
    """None when there is no KV cache that is known of."""
    setup: Setup | None
    """What the engine will run under; None when the model is not here."""
    made_of: str = ""
    """What a measurement of this replica would hold for; see `measured.made_of`."""
    problem: str | None = None
    """Why a replica with so much would not start."""

    @property
    def ways(self) -> tuple[int, ...]:
        """What to reserve, best first: what is wanted, then what is enough."""
        return (self.mib,) if self.least_mib >= self.mib else (self.mib, self.least_mib)


def estimate(
    spec: ModelSpec,
    folder: ModelFolder | None,
    kind: DeviceKind,
    *,
    device_total_mib: int | None = None,
    measured: Measured | None = None,
) -> Estimate:
    """Estimate what one replica takes on devices of `kind`, each of `device_total_mib` where that is known.

    1. A simulated model takes what its entry says.
    2. A declared `memory_mib` wins; the KV cache is what it leaves.
    3. A measurement replaces all terms but the KV cache, if it is of the same weights and settings.
    4. Else the terms are worked out. Raises NeedUnknownError where that cannot be.
    """
    if spec.engine == "sim":
        return _flat(spec.sim.memory_mib, "sim.memory_mib", 1)
    if folder is None:
        if spec.memory_mib is None:
            raise NeedUnknownError("the weights are not on this machine (yet); until they are, set its memory_mib")
        return _flat(spec.memory_mib, _DECLARED, device_count(spec.engine_args, kind))
    try:
        config = effective_config(folder, spec.engine_args)
        if config.shape is None:
            raise NeedUnknownError(f"{config.shape_problem}; set its memory_mib")
        chosen = setup(
            spec.engine_args, config, kind, max_model_len=spec.max_model_len, device_total_mib=device_total_mib
        )
        key = made_of(folder.fingerprint, chosen)
        seen = None if measured is None or measured.made_of != key or measured.model != spec.id else measured.other_mib
        if seen is not None:
            source = Source.MEASURED
            others = [Term("measured", seen, "all but the KV cache, when it was loaded before")]
        else:
            source, others = Source.ESTIMATED, _others(folder, config, config.shape, chosen)
    except ConfigError as error:
        raise NeedUnknownError(str(error)) from None
    except NeedUnknownError:
        if spec.memory_mib is None:
            raise
        return _flat(spec.memory_mib, _DECLARED, device_count(spec.engine_args, kind))
    return _with_cache(
        others,
        config.shape,
        chosen,
        source=source if spec.memory_mib is None else Source.DECLARED,
        key=key,
        declared_mib=spec.memory_mib,
        device_total_mib=device_total_mib,
    )


def gpu_memory_utilization(mib: int, total_mib: int) -> float:
    """Return the share of a device that vLLM is to take so that its process takes `mib` in all."""
    return max(0.01, min(0.99, math.floor((mib - CONTEXT_MIB) / total_mib * 10_000) / 10_000))


def _flat(mib: int, how: str, devices: int) -> Estimate:
    return Estimate(
        source=Source.DECLARED,
        terms=(Term("declared", mib, how),),
        devices=devices,
        mib=mib,
        least_mib=mib,
        kv_mib=None,
        setup=None,
    )


def _others(folder: ModelFolder, config: ModelConfig, shape: ModelShape, setup: Setup) -> list[Term]:
    """Return every term but the KV cache. Raises NeedUnknownError."""
    try:
        weights, how = _weights(folder, config, shape, setup)
    except ValueError as error:
        raise NeedUnknownError(f"{error}; set its memory_mib") from None
    share = f", on {setup.processes} devices" if setup.devices > 1 else ""
    step = activations.bytes_per_step(shape, setup) * (1 if setup.devices > 1 else setup.processes)
    return [
        Term("weights", _mib(weights / setup.devices), how + share),
        Term("activations", _mib(step), f"a step of {setup.batch:,} tokens, {setup.seats} sequences"),
        *(_cpu_terms(shape, setup) if setup.kind is DeviceKind.CPU else _gpu_terms(shape, setup)),
    ]


def _cpu_terms(shape: ModelShape, setup: Setup) -> Iterator[Term]:
    # It is turned into another order for the CPU, and the first one is kept beside it.
    yield Term("output matrix", _mib(shape.vocab * shape.hidden * setup.dtype_bytes), "a second copy")
    yield Term("runtime", CPU_RUNTIME_MIB + (setup.processes - 1) * _CPU_PROCESS_MIB, "Python, torch and vLLM")


def _gpu_terms(shape: ModelShape, setup: Setup) -> Iterator[Term]:
    if setup.graphs:
        layers = -(-shape.layers // setup.pipeline_parallel)
        yield Term("CUDA graphs", layers * _GRAPHS_MIB_PER_LAYER, f"of {layers} layers")
    talk = _COLLECTIVES_MIB if setup.devices > 1 else 0
    yield Term("runtime", CONTEXT_MIB + _LIBRARIES_MIB + talk, "the driver's context and libraries")


def _weights(folder: ModelFolder, config: ModelConfig, shape: ModelShape, setup: Setup) -> tuple[int, str]:
    """Return their bytes once loaded, and what that was worked out from. Raises ValueError."""
    dtype_bytes = setup.dtype_bytes
    if folder.weights is not None:
        how = f"{_size(folder.weights.total_bytes)} in {len(folder.weights.files)} safetensors"
        quantized = config.quantization is not None
        size = parameters.stored_bytes(folder.weights, dtype_bytes=dtype_bytes, quantized=quantized)
    else:
        how = "by the numbers of config.json"
        size = parameters.computed_bytes(shape, dtype_bytes=dtype_bytes, quantization=config.quantization)
    if (method := setup.quantization) is not None:
        how += f", quantized to {method}"
        size = parameters.quantized_while_loading(size, shape, method=method, dtype_bytes=dtype_bytes)
    return size, how


def _with_cache(
    others: Sequence[Term],
    shape: ModelShape,
    setup: Setup,
    *,
    source: Source,
    key: str,
    declared_mib: int | None,
    device_total_mib: int | None,
) -> Estimate:
    """Add the KV cache to the other terms."""
    other = sum(term.mib for term in others)
    processes = 1 if setup.devices > 1 else setup.processes
    one = kv_cache.bytes_per_sequence(shape, setup) * processes
    spare = kv_cache.block_bytes(shape, setup) * processes
    least = _mib(one + spare)
    wanted = setup.cache_mib or _mib(one * setup.sequences + spare)
    total = declared_mib
    if total is None and setup.utilization is not None and device_total_mib is not None:
        total = int(setup.utilization * device_total_mib) + (0 if setup.kind is DeviceKind.CPU else CONTEXT_MIB)
    if total is None and device_total_mib is not None:
        wanted = max(least, min(wanted, int(device_total_mib * (1 - _SPARED)) - other))
    kv = wanted if total is None else max(0, total - other)
    problem = None
    if kv < least:
        problem = (
            f"{kv:,} MiB are left for the KV cache, but one sequence of {setup.context:,} tokens takes {least:,}; "
            f"allow {other + least:,} MiB in all, or lower its max_model_len"
        )
    held = max(0, (kv << 20) - spare) / one if one else 0
    how = f"{held:,.1f} sequences of {setup.context:,} tokens" if one else "none is needed"
    return Estimate(
        source=source,
        terms=(*others, Term("KV cache", kv, how)),
        devices=setup.devices,
        mib=other + kv if total is None else total,
        least_mib=other + min(least, kv) if total is None else total,
        kv_mib=kv,
        setup=setup,
        made_of=key,
        problem=problem,
    )


def _size(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _mib(size: float) -> int:
    return math.ceil(size / (1 << 20))
