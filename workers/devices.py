"""What a model can be placed on. Data only; `workers.inventory` finds out what is there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DeviceKind(StrEnum):
    CUDA = "cuda"
    ROCM = "rocm"
    CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device and its memory at one moment. For the CPU that is the memory we may use."""

    id: str
    kind: DeviceKind
    total_mib: int
    free_mib: int
