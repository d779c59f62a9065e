"""What a vLLM engine has of its device's memory, as far as it does not say so itself. Pure."""

from __future__ import annotations

from pathlib import Path

from workers.devices import DeviceKind
from workers.engine.base import SleepNeed
from workers.estimate.kv_cache import bytes_per_token
from workers.estimate.needs import Estimate, NeedUnknownError, estimate
from workers.model_config import ConfigError
from workers.model_folder import ModelFolder, ModelFolderError, read
from workers.models_dir import root_of
from workers.registry import ModelSpec
from workers.servable import effective_config

_STAY = frozenset({"CUDA graphs", "runtime"})


def sleep_need(spec: ModelSpec, kind: DeviceKind) -> SleepNeed | None:
    """Return what `spec` keeps on a GPU of `kind` while it sleeps (level 1); None where that cannot be told.

    vLLM copies the weights into the machine's memory and drops the KV cache. The driver's
    context, the libraries' work space and the recorded graphs stay where they are.
    """
    if (found := _estimate(spec, kind)) is None:
        return None
    need = found[1]
    mib = {term.name: term.mib for term in need.terms}
    if "weights" not in mib:
        return None
    return SleepNeed(
        device_mib=sum(mib[name] for name in _STAY & mib.keys()),
        ram_mib=mib["weights"] * need.devices,
    )


def kv_mib(spec: ModelSpec, kind: DeviceKind, *, blocks: int, block_tokens: int) -> int | None:
    """Return what `blocks` of the KV cache take of each device; None where that cannot be told.

    Where layers differ, vLLM shares a block out among them in a way of its own.
    """
    found = _estimate(spec, kind)
    if found is None or (setup := found[1].setup) is None:
        return None
    try:
        shape = effective_config(found[0], spec.engine_args).shape
    except ConfigError:
        return None
    if shape is None or shape.kinds.full != shape.layers or shape.kinds.recurrent:
        return None
    layers = -(-shape.layers // setup.pipeline_parallel)
    each = blocks * block_tokens * layers * bytes_per_token(shape, setup)
    return (each * setup.processes // setup.devices) >> 20


def _estimate(spec: ModelSpec, kind: DeviceKind) -> tuple[ModelFolder, Estimate] | None:
    """Return what is on this machine of the model, and what it needs; None where one of them is not known."""
    if spec.path is None:
        return None
    path = Path(spec.path)
    try:
        folder = read(path, root_of(path, None))
        return folder, estimate(spec, folder, kind)
    except (ModelFolderError, NeedUnknownError, OSError):
        return None
