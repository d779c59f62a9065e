"""What NVIDIA's driver says of its GPUs. The only user of pynvml.

Every answer may fail by itself: a GPU falls off the bus while its neighbour works on, a
driver is exchanged under a running program. What could not be learned is said so, with
the reason, and never filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pynvml

from workers.devices import Device, DeviceKind, Holder, unknown

_MIB = 1024 * 1024

# There is nothing to be asked: no library, or one that came without a driver, as in many container images.
_ABSENT = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
# A GPU that is not cut into instances says one of these when it is asked for them.
_NO_INSTANCES = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
_ADVICE = {
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was exchanged while it ran; restart the machine",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the driver (`modprobe nvidia`) if this machine has a GPU",
    pynvml.NVML_ERROR_NO_PERMISSION: "let this user open /dev/nvidia*",
    pynvml.NVML_ERROR_GPU_IS_LOST: "it has fallen off the bus; look into the kernel's log and restart the machine",
    pynvml.NVML_ERROR_RESET_REQUIRED: "stop what uses it and run `nvidia-smi --gpu-reset`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the driver said at one moment.

    `present` is whether there is a driver at all. With one that does not answer, there
    may be GPUs of which we know nothing: `problem` says why.
    """

    present: bool
    devices: tuple[Device, ...] = ()
    driver: str = ""
    problem: str = ""


class Nvml:
    """One conversation with the driver, kept open: opening it takes seconds where nobody else keeps the GPUs awake.

    Not for several threads. A call may take long while a GPU is failing.
    """

    def __init__(self) -> None:
        self._open = False

    def read(self) -> Reading:
        """Return all GPUs and MIG instances, whoever may use them, and all that holds memory of them as foreign."""
        try:
            self._ensure_open()
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self.close()  # so that a driver that has come back is found the next time
            no_library = error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
            return Reading(present=error.value not in _ABSENT, problem="" if no_library else explain(error))
        devices = tuple(device for index in range(count) for device in _gpu(f"cuda:{index}", index))
        return Reading(present=True, devices=devices, driver=_text(pynvml.nvmlSystemGetDriverVersion))

    def close(self) -> None:
        if self._open:
            self._open = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _ensure_open(self) -> None:
        if not self._open:
            pynvml.nvmlInit()
            self._open = True


def explain(error: Any) -> str:
    """Return what the driver said, and what can be done about it where that is known."""
    advice = _ADVICE.get(error.value)
    return f"NVML: {error}" + (f" ({advice})" if advice else "")


def _gpu(id_: str, index: int) -> Iterator[Device]:
    """Yield the GPU itself, or its MIG instances when it is cut into some: then it cannot be used as a whole."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        yield unknown(id_, DeviceKind.CUDA, explain(error))
        return
    name = _text(pynvml.nvmlDeviceGetName, handle)
    uuid = _text(pynvml.nvmlDeviceGetUUID, handle)
    try:
        instances = _instances(handle)
    except pynvml.NVMLError as error:
        yield unknown(id_, DeviceKind.CUDA, explain(error), name=name, uuid=uuid)
        return
    if instances is None:
        yield _device(id_, handle, name, uuid)
    elif not instances:
        why = "MIG is switched on and no instance is made; make some with `nvidia-smi mig`, or switch it off"
        yield unknown(id_, DeviceKind.CUDA, why, name=name, uuid=uuid)
    for number, instance in instances or ():
        uuid = _text(pynvml.nvmlDeviceGetUUID, instance)
        called = _text(pynvml.nvmlDeviceGetName, instance)
        yield _device(f"{id_}:{number}", instance, called or name, uuid)


def _instances(handle: Any) -> list[tuple[int, Any]] | None:
    """Return the MIG instances by their number, None when MIG is off. Raises NVMLError."""
    try:
        mode, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError as error:
        if error.value in _NO_INSTANCES:
            return None
        raise
    if mode != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    found = []
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(pynvml.NVMLError_NotFound):
            found.append((number, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)))
    return found


def _device(id_: str, handle: Any, name: str, uuid: str) -> Device:
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        return unknown(id_, DeviceKind.CUDA, explain(error), name=name, uuid=uuid)
    return Device(
        id=id_,
        kind=DeviceKind.CUDA,
        total_mib=int(memory.total) // _MIB,
        free_mib=int(memory.free) // _MIB,
        name=name,
        uuid=uuid,
        foreign=_holders(handle),
    )


def _holders(handle: Any) -> tuple[Holder, ...] | None:
    """Return who holds memory of the device, largest first; None when the driver does not say."""
    held: dict[int, int | None] = {}
    try:
        for process in (*_running(handle, "Compute"), *_running(handle, "Graphics")):
            # One that computes and draws is in both lists, with the same memory.
            bytes_ = process.usedGpuMemory
            mib = None if bytes_ is None else int(bytes_) // _MIB
            held[process.pid] = max(filter(None, (held.get(process.pid), mib)), default=mib)
    except pynvml.NVMLError:
        return None
    holders = (Holder(pid, mib) for pid, mib in held.items())
    return tuple(sorted(holders, key=lambda holder: (-(holder.mib or 0), holder.pid)))


def _running(handle: Any, what: str) -> list[Any]:
    """Ask by version, newest first: older drivers know only the older question."""
    name = f"nvmlDeviceGet{what}RunningProcesses"
    try:
        newest: list[Any] = getattr(pynvml, f"{name}_v3")(handle)
    except pynvml.NVMLError_FunctionNotFound:
        older: list[Any] = getattr(pynvml, f"{name}_v2")(handle)
        return older
    return newest


def _text(ask: Callable[..., str | bytes], *handle: Any) -> str:
    """Return the answer, empty when there is none: names are for people, and nothing is decided by them."""
    try:
        answer = ask(*handle)
    except pynvml.NVMLError:
        return ""
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
