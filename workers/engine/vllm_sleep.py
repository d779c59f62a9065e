"""What a vLLM engine keeps of its memory while it sleeps (level 1). Pure.

vLLM copies the weights into the machine's memory and drops the KV cache. The driver's
context, the libraries' work space and the recorded graphs stay where they are.
"""

from __future__ import annotations

from pathlib import Path

from workers.devices import DeviceKind
from workers.engine.base import SleepNeed
from workers.estimate.needs import NeedUnknownError, estimate
from workers.model_folder import ModelFolderError, read
from workers.models_dir import root_of
from workers.registry import ModelSpec

_STAY = frozenset({"CUDA graphs", "runtime"})


def sleep_need(spec: ModelSpec, kind: DeviceKind) -> SleepNeed | None:
    """Return what `spec` keeps on a GPU of `kind`; None where that cannot be told: then it had better not sleep."""
    if spec.path is None:
        return None
    path = Path(spec.path)
    try:
        need = estimate(spec, read(path, root_of(path, None)), kind)
    except (ModelFolderError, NeedUnknownError, OSError):
        return None
    mib = {term.name: term.mib for term in need.terms}
    if "weights" not in mib:
        return None
    return SleepNeed(
        device_mib=sum(mib[name] for name in _STAY & mib.keys()),
        ram_mib=mib["weights"] * need.devices,
    )
