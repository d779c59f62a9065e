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
    made_of: str = ""
    """`made_of` of the model and the settings that it was loaded with; empty where they are not known."""
    other_mib: int | None = None
    """All but the KV cache, on the fullest of its devices; None: nobody could tell."""
    load_s: float | None = None
    """From the start of its process until it took work."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError for what `to_json` did not write."""
        other, load = told["other_mib"], told.get("load_s")
        return cls(
            model=str(told["model"]),
            kind=DeviceKind(told["kind"]),
            made_of=str(told["made_of"]),
            other_mib=None if other is None else int(other),
            load_s=None if load is None else float(load),
        )

    def then(self, later: Measured) -> Measured:
        """Return what is known once `later` was seen too.

        Memory is the most that was seen of the same weights and settings, since a small
        request shows less than a large one. Of times, the later ones count for more: a
        load out of the page cache takes a tenth of the first one.
        """
        other = later.other_mib
        if other is None or self.made_of == later.made_of:
            other = max((mib for mib in (self.other_mib, other) if mib is not None), default=None)
        load = later.load_s if later.load_s is not None else self.load_s
        if load is not None and self.load_s is not None:
            load = (self.load_s + load) / 2
        return Measured(
            model=self.model,
            kind=self.kind,
            made_of=later.made_of if later.other_mib is not None else self.made_of,
            other_mib=other,
            load_s=load,
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
