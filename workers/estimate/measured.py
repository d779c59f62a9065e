"""What a replica was seen to take, so that the next estimate of the same model is no estimate.

Kept for a model and a kind of device by whoever loads models. The KV cache is not part
of it: that is as large as it was told to be, and another setting may tell it otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from workers.devices import DeviceKind
from workers.estimate.setup import Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    model: str
    kind: DeviceKind
    made_of: str
    """`made_of` of the model and the settings that it was loaded with."""
    other_mib: int
    """All but the KV cache, on the fullest of its devices."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Raises KeyError or ValueError for what `to_json` did not write."""
        return cls(
            model=str(told["model"]),
            kind=DeviceKind(told["kind"]),
            made_of=str(told["made_of"]),
            other_mib=int(told["other_mib"]),
        )


def made_of(fingerprint: str, setup: Setup) -> str:
    """Return what a measurement holds for: these weights, under the settings that change all but the KV cache."""
    settings = (
        setup.kind.value,
        setup.tensor_parallel,
        setup.pipeline_parallel,
        setup.seats,
        setup.batch,
        setup.dtype_bytes,
        setup.quantization,
        setup.graphs,
    )
    return hashlib.sha256(f"{fingerprint}{settings}".encode()).hexdigest()[:16]
