"""models.yaml → frozen model specs; all of its validation messages.

Reads one file; it neither looks at weights nor at devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class RegistryError(Exception):
    """models.yaml cannot be used. The text names file, line and key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSpec:
    """How the simulated engine behaves; see `workers.engine.sim`."""

    load_s: float = 0.0
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    seats: int = 256
    memory_mib: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """How much work may wait for a model, and how long."""

    max_depth: int = 1000
    max_wait_s: float = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One entry of models.yaml."""

    id: str
    engine: str = "vllm"
    path: str | None = None
    """An existing folder (absolute once loaded), or a Hugging Face repository."""
    aliases: tuple[str, ...] = ()
    pinned: bool = False
    memory_mib: int | None = None
    max_model_len: int | None = None
    replicas_min: int = 0
    replicas_max: int = 1
    idle_ttl_s: float | None = 900.0
    exclusive: bool = False
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    """vLLM's own names and values."""
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: QueueSpec = field(default_factory=QueueSpec)
    sim: SimSpec = field(default_factory=SimSpec)


@dataclass(frozen=True, slots=True)
class Registry:
    """The models of one models.yaml, by id, with every alias resolved."""

    models: Mapping[str, ModelSpec]
    aliases: Mapping[str, str]
    """Alias → model id."""

    @classmethod
    def load(cls, path: Path, models_dir: Path | None = None) -> Registry:
        """Read `path`. Raises RegistryError, also when the file is missing."""
        raise NotImplementedError

    def resolve(self, name: str) -> ModelSpec | None:
        """Return the model called `name`, directly or by alias."""
        return self.models.get(self.aliases.get(name, name))
