"""Which replica of which model an engine worker is: what its environment says."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from typing import Self

from tasks.settings import Settings, SettingsError
from workers.registry import ModelSpec, Registry


@dataclass(frozen=True, slots=True)
class Identity:
    """Which replica of which model this process is."""

    replica_id: str
    spec: ModelSpec
    node: str
    device: str
    reserved_mib: int | None
    started_at: float

    @classmethod
    def of_this_process(cls, settings: Settings) -> Self:
        """Read the environment. Raises SettingsError when it does not name a replica of a known model."""
        model, replica_id = os.environ.get("CELERITY_MODEL"), os.environ.get("CELERITY_REPLICA_ID")
        if not model or not replica_id:
            raise SettingsError(
                "an engine worker needs CELERITY_MODEL and CELERITY_REPLICA_ID; start it with `celerity up`"
            )
        spec = Registry.load(settings.models, settings.models_dir).resolve(model)
        if spec is None:
            raise SettingsError(f"CELERITY_MODEL is {model!r}, which {settings.models} does not have")
        reserved = os.environ.get("CELERITY_RESERVED_MIB")
        reserved_mib = int(reserved) if reserved else None
        if reserved_mib is not None:
            spec = dataclasses.replace(spec, memory_mib=reserved_mib)
        device = os.environ.get("CELERITY_DEVICE", "cpu")
        return cls(replica_id, spec, settings.node_id, device, reserved_mib, time.time())
