"""What generates tokens inside a worker: one protocol, and the engines chosen by name.

Engines are never imported elsewhere, so a gateway needs none of their libraries.
"""

from __future__ import annotations

import importlib

from workers.engine.base import Engine
from workers.registry import ModelSpec

ENGINES = {
    "vllm": "workers.engine.vllm:VllmEngine",
    "sim": "workers.engine.sim:SimEngine",
}


def create(spec: ModelSpec) -> Engine:
    """Build the engine that `spec` names; it holds nothing until its `start`.

    Raises ImportError when the engine's library is not installed.
    """
    module, _, name = ENGINES[spec.engine].partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(spec)
    return engine
