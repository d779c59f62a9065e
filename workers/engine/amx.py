"""A vLLM plugin: ask the kernel for AMX before vLLM's CPU kernels use it.

Linux hands the AMX tile registers only to a process that asks. vLLM's own kernels
never ask; they rely on a oneDNN kernel having done it, which is not so for the first
short request of a fresh engine, and the process then dies of an illegal instruction.
vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`).
"""

from __future__ import annotations

from types import ModuleType


def register() -> None:
    """Called by vLLM. Does nothing where the processor has no AMX, or torch has no CPU build."""
    try:
        import torch.cpu  # noqa: PLC0415 - a gateway imports this package's neighbours and has no torch
    except ImportError:
        return
    ask_for_tiles(torch.cpu)


def ask_for_tiles(cpu: ModuleType) -> None:
    """Use torch's private functions if they are there: another release may have renamed them."""
    supported = getattr(cpu, "_is_amx_tile_supported", None)
    ask = getattr(cpu, "_init_amx", None)
    if supported is not None and ask is not None and supported():
        ask()
