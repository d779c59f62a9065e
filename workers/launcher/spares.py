"""Which processes may wait, with everything imported, to become replicas by forking; as data."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import dataclass

# What each engine's replicas import. A module with a function `forked` has it called in every
# fork, in this order, once the fork has an environment of its own and before it has a thread.
_MODULES = {
    "sim": ("tasks.serving.spare",),
    "vllm": ("tasks.serving.spare", "workers.engine.vllm_spare"),
}
_LIBRARIES = {"vllm": "vllm"}


@dataclass(frozen=True, slots=True)
class Spare:
    """What is the same in all replicas of an engine, and so can be done before there is one."""

    engine: str
    modules: tuple[str, ...]
    env: tuple[tuple[str, str], ...]

    @property
    def is_costly(self) -> bool:
        """Say whether to import it all keeps a processor busy for seconds."""
        return self.engine in _LIBRARIES

    @classmethod
    def of(cls, engine: str, env: Mapping[str, str]) -> Spare:
        return cls(engine, _MODULES[engine], tuple(sorted(env.items())))


def wanted(engines: Collection[str], env: Mapping[str, str]) -> tuple[Spare, ...]:
    """Return a spare for each of `engines` whose library is installed here."""
    return tuple(Spare.of(engine, env) for engine in sorted(engines) if _is_installed(engine))


def _is_installed(engine: str) -> bool:
    library = _LIBRARIES.get(engine)
    return library is None or importlib.util.find_spec(library) is not None
