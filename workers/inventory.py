"""What devices this machine has, and how much memory is free on each right now.

NVIDIA's GPUs if its driver is there, else AMD's if something can use them, else the CPU
with the memory that its control group and the operator leave us. A GPU of which nothing
can be learned is listed as unknown; the CPU never stands in for it.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from workers import amd
from workers.cgroup import memory_limit
from workers.cuda_visible import visible
from workers.devices import Device, DeviceKind
from workers.gpus import Nvml

_MIB = 1024 * 1024
_KFD = Path("/dev/kfd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The machine at one moment."""

    devices: tuple[Device, ...]
    driver: str = ""
    """The version of NVIDIA's driver, empty where there is none."""
    problem: str = ""
    """Why GPUs may be missing from `devices`, and what to do; empty when none is."""


class Inventory:
    """Looks again whenever it is asked. Keeps NVIDIA's driver open; close it at the end. Not for several threads."""

    def __init__(self, *, memory_mib: int | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self._memory_mib = memory_mib
        self._environ = environ
        self._nvml = Nvml()

    def survey(self, ours: Callable[[int], bool] = lambda _pid: False) -> Survey:
        """Look at every device. Of the processes that hold GPU memory, those that are `ours` are not foreign."""
        reading = self._nvml.read()
        devices = visible(reading.devices, self._environ)
        if not devices and not (reading.present and reading.problem):
            devices = rocm_gpus() or (cpu(self._memory_mib),)
        told = tuple(_without(device, ours) for device in devices)
        return Survey(devices=told, driver=reading.driver, problem=reading.problem)

    def held(self, ours: Callable[[int], bool]) -> dict[str, int]:
        """Return how many MiB of each NVIDIA GPU our processes hold; one whose driver does not say is left out."""
        found = {}
        for device in visible(self._nvml.read().devices, self._environ):
            mine = [holder.mib for holder in device.foreign or () if ours(holder.pid)]
            if mine and None not in mine:
                found[device.id] = sum(mib for mib in mine if mib is not None)
        return found

    def close(self) -> None:
        self._nvml.close()


def survey(*, memory_mib: int | None = None) -> Survey:
    """Look once."""
    inventory = Inventory(memory_mib=memory_mib)
    try:
        return inventory.survey()
    finally:
        inventory.close()


def in_sessions_of(leaders: Collection[int]) -> Callable[[int], bool]:
    """Return who counts as ours: the replicas with these process ids, and all they have started.

    A launcher makes every replica the leader of a session, and an engine's children stay in it.
    """

    def ours(pid: int) -> bool:
        try:
            return os.getsid(pid) in leaders
        except OSError:
            return False

    return ours


def cpu(memory_mib: int | None = None) -> Device:
    """Return the CPU with the memory that we may use: at most `memory_mib`, if that is given.

    What we use already counts against that limit, but is not known here: whoever places
    something must compare what it has placed with the total too.
    """
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    if (limit := memory_limit()) is not None:
        total, free = min(total, limit.total), min(free, limit.free)
    if memory_mib is not None:
        total, free = min(total, memory_mib * _MIB), min(free, memory_mib * _MIB)
    return Device(id="cpu", kind=DeviceKind.CPU, total_mib=total // _MIB, free_mib=free // _MIB)


def rocm_gpus() -> tuple[Device, ...]:
    """Return AMD's GPUs, unless nothing here could compute on them.

    Nearly every AMD processor has a small one for the screen. It must not take the CPU's
    place where the compute driver, or a vLLM built for it, is missing.
    """
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return amd.gpus() if _KFD.exists() else ()


def _without(device: Device, ours: Callable[[int], bool]) -> Device:
    if not device.foreign:
        return device
    return replace(device, foreign=tuple(holder for holder in device.foreign if not ours(holder.pid)))
