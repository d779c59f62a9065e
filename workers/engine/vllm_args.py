"""A model's entry in models.yaml → the environment and the arguments of its vLLM engine.

Knows vLLM's names, not vLLM: whoever calls says which options this release has.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from workers.devices import DeviceKind
from workers.estimate.needs import CPU_RUNTIME_MIB, NeedUnknownError, estimate, gpu_memory_utilization
from workers.estimate.setup import CPU_SEATS
from workers.model_folder import ModelFolderError, read
from workers.models_dir import root_of
from workers.registry import ModelSpec

# The operator's own environment wins over these; vLLM reads them when it is imported.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # For vLLM's child processes, whose warnings are the same dozen at every start. In
    # the worker itself its records go where ours go, once it has started.
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # As many as the gateway lets through.
    "VLLM_MAX_N_SEQUENCES": "16",
    "VLLM_MAX_STOP_STRINGS": "16",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    # fork would copy the worker's threads and locks.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
# Whoever launched us may have measured what the rest takes.
_KV_MIB = "CELERITY_KV_MIB"
_CPU_KV_MIB = 1024
_CPU_KV_MIN_MIB = 64
# Set from other keys of the entry, so that there is one place to look.
_OURS = {
    "model": "path",
    "served_model_name": "the model's id",
    "tool_call_parser": "tool_call_parser",
    "reasoning_parser": "reasoning_parser",
    "default_chat_template_kwargs": "chat_template_kwargs",
}
_LOGS_PROMPTS = frozenset({"enable_log_requests", "enable_log_outputs", "enable_log_deltas", "max_log_len"})
_SMALL_MACHINE_CPUS = 8
_MULTIPROCESSING = "VLLM_ENABLE_V1_MULTIPROCESSING"
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
_PARALLEL = frozenset(
    {"distributed_executor_backend", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"}
)
_KV_SIZES = frozenset({"kv_cache_memory_bytes", "gpu_memory_utilization", "num_gpu_blocks_override"})


class EngineArgumentError(Exception):
    """`engine_args` of a model cannot be used. The text names model and key."""


def is_folder(spec: ModelSpec) -> bool:
    return spec.path is not None and Path(spec.path).is_dir()


def engine_args(
    spec: ModelSpec,
    *,
    cpu: bool,
    environ: Mapping[str, str] = os.environ,
    device_total_mib: int | None = None,
    sleeps: bool = False,
) -> dict[str, Any]:
    """Return vLLM's arguments by name: our defaults, under what the entry says.

    On a GPU of `device_total_mib` the engine takes the spec's `memory_mib` and no more.
    `sleeps` says that this platform can put an engine to sleep.
    """
    for key in spec.engine_args:
        if key in _OURS:
            raise EngineArgumentError(f"model {spec.id}: engine_args.{key} is set from {_OURS[key]}; remove it there")
        if key in _LOGS_PROMPTS:
            raise EngineArgumentError(f"model {spec.id}: engine_args.{key} is not allowed: prompts must not be logged")
    args: dict[str, Any] = {
        "model": spec.path or spec.id,
        "served_model_name": [spec.id],
        "load_format": "safetensors",
        "disable_log_stats": False,
        "use_tqdm_on_load": False,
    }
    if not spec.engine_args.keys() & {"limit_mm_per_prompt", "language_model_only"}:
        # An image is fetched from wherever its URL points: off unless asked for.
        args["language_model_only"] = True
    if spec.max_model_len is not None:
        args["max_model_len"] = spec.max_model_len
    if spec.tool_call_parser is not None:
        args |= {"enable_auto_tool_choice": True, "tool_call_parser": spec.tool_call_parser}
    if spec.reasoning_parser is not None:
        args["reasoning_parser"] = spec.reasoning_parser
    if spec.chat_template_kwargs:
        args["default_chat_template_kwargs"] = dict(spec.chat_template_kwargs)
    if sleeps:
        args["enable_sleep_mode"] = True
    if cpu:
        args |= _cpu_args(spec, environ)
    elif spec.memory_mib is not None and device_total_mib is not None and not _KV_SIZES & spec.engine_args.keys():
        args["gpu_memory_utilization"] = gpu_memory_utilization(spec.memory_mib, device_total_mib)
    return args | dict(spec.engine_args)


def scratch_environment(folder: str, *, usual: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what makes the engine's processes keep their sockets and temporary files in `folder`.

    vLLM leaves some of them behind. Compiled code stays where it always is, in `usual`:
    it is worth keeping.
    """
    kept = str(Path(usual) / f"torchinductor_{getpass.getuser()}")
    return {
        "TMPDIR": folder,
        "VLLM_RPC_BASE_PATH": folder,
        "TORCHINDUCTOR_CACHE_DIR": environ.get("TORCHINDUCTOR_CACHE_DIR", kept),
        # About vLLM's own code; nobody who runs it can act on them.
        "PYTHONWARNINGS": environ.get("PYTHONWARNINGS", "ignore::FutureWarning"),
    }


def cpu_environment(spec: ModelSpec, *, cpus: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what suits an engine on this machine's `cpus`, where the operator has not chosen otherwise."""
    environment: dict[str, str] = {}
    if spec.engine_args.get("enforce_eager", True):
        # vLLM compiles some helpers also when eager: the first request with logprobs took
        # 7 s, and without a C++ compiler it killed the engine (both tried).
        environment["TORCHDYNAMO_DISABLE"] = environ.get("TORCHDYNAMO_DISABLE", "1")
    chosen = _PARALLEL & spec.engine_args.keys() or {_MULTIPROCESSING, _BINDING} & environ.keys()
    if not chosen and cpus <= _SMALL_MACHINE_CPUS:
        # vLLM puts the model into a process of its own, bound to fixed cores. On a small
        # machine that costs 590 MiB and a third of the speed (measured on two cores), and
        # every engine of the machine is bound to the same core.
        environment[_MULTIPROCESSING] = "0"
        # One core is left to the worker and the engine's scheduler.
        environment["OMP_NUM_THREADS"] = environ.get("OMP_NUM_THREADS", str(max(1, cpus - 1)))
    return environment


def _cpu_args(spec: ModelSpec, environ: Mapping[str, str]) -> dict[str, Any]:
    args: dict[str, Any] = {"block_size": 128, "enforce_eager": True, "max_num_seqs": CPU_SEATS}
    if not _KV_SIZES & spec.engine_args.keys() and not environ.get("VLLM_CPU_KVCACHE_SPACE"):
        told = environ.get(_KV_MIB, "")
        args["kv_cache_memory_bytes"] = (int(told) if told.isdecimal() else _cpu_kv_mib(spec)) << 20
    return args


def _cpu_kv_mib(spec: ModelSpec) -> int:
    """Return the size of the KV cache, which is taken whole at the start: what the estimate has for it."""
    try:
        folder = read(Path(spec.path), root_of(Path(spec.path), None)) if spec.path and is_folder(spec) else None
        size = estimate(spec, folder, DeviceKind.CPU).kv_mib
    except (ModelFolderError, NeedUnknownError):
        size = None
    if size is None:
        size = _CPU_KV_MIB if spec.memory_mib is None else spec.memory_mib - CPU_RUNTIME_MIB
    return max(_CPU_KV_MIN_MIB, size)


def command_line(spec: ModelSpec, args: Mapping[str, Any], options: Collection[str]) -> list[str]:
    """Spell `args` as vLLM's command line, which is what checks and converts its values.

    Raises EngineArgumentError for a name that is not among `options` (`--like-this`).
    """
    line: list[str] = []
    for key, value in args.items():
        option = "--" + key.replace("_", "-")
        if option not in options:
            raise EngineArgumentError(
                f"model {spec.id}: vLLM has no engine argument {key!r}; the names are those of `vllm serve --help`"
            )
        match value:
            case None:
                continue
            case True:
                line.append(option)
            case False if (negated := "--no-" + key.replace("_", "-")) in options:
                line.append(negated)
            case False:
                continue
            case list() | tuple():
                line += [option, *map(str, value)]
            case Mapping():
                line += [option, json.dumps(value)]
            case _:
                line.append(f"{option}={value}")
    return line
