"""What models.yaml says of devices: which ones a model may be on, and what a device is for.

A device is named as `NODE/DEVICE`, or as `DEVICE` alone: that one on every node. In both
parts `*` stands for anything. What is named need not be there: machines come and go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

_NODE = re.compile(r"[A-Za-z0-9._*-]{1,253}")
_DEVICE = re.compile(r"cpu|(cuda|rocm):[0-9*]+(:[0-9*]+)?|\*")
RULE = "a device is NODE/DEVICE or DEVICE, such as gpu-box/cuda:0, cuda:1, cpu or cuda:*"


@dataclass(frozen=True, slots=True)
class DevicePattern:
    node: str
    device: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        node, slash, device = text.rpartition("/")
        if not _DEVICE.fullmatch(device) or (slash and not _NODE.fullmatch(node)):
            raise ValueError(RULE)
        return cls(node or "*", device)

    def matches(self, node: str, device: str) -> bool:
        return fnmatchcase(node, self.node) and fnmatchcase(device, self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """What one device is for."""

    exclusive: bool = False
    """Only one model at a time is active there, whichever it is."""
    bound_to: str | None = None
    """A model or alias; nothing else is placed there."""
    slots: int | None = None
    """How many replicas may be there at once; None: as many as its memory holds."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The entries under `devices:`, in their order."""

    entries: tuple[tuple[DevicePattern, Mapping[str, Any]], ...] = ()

    @classmethod
    def of_entries(cls, entries: Mapping[str, Mapping[str, Any]]) -> Self:
        """Raises ValueError for a name that is no device's."""
        return cls(tuple((DevicePattern.parse(name), entry) for name, entry in entries.items()))

    def use_of(self, node: str, device: str) -> DeviceUse:
        """Return what all entries say that match; where two say different things, the later one counts."""
        said: dict[str, Any] = {}
        for pattern, entry in self.entries:
            if pattern.matches(node, device):
                said |= entry
        return DeviceUse(**said)
