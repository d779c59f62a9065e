"""Why a load failed, in words for whoever waits, and whether trying again can help. Pure.

An engine's own processes say it in many ways, most of them only in the log: vLLM's core
is a child, whose parent knows no more than that it has ended. So the end of the log is
read, and nothing of it is repeated, since it may hold paths.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadError:
    reason: str
    permanent: bool = False
    """Trying again cannot help until somebody changes something."""


_MEMORY = LoadError("there is not enough memory for it")
_WEIGHTS = LoadError("its weights are missing or broken", permanent=True)
_KNOWN = (
    (
        re.compile(
            r"out of memory|OutOfMemory|MemoryError|Cannot allocate memory|No available memory for the cache"
            r"|Free memory on device|can be stored in (the )?KV cache|needed, which is larger than the available"
            r"|can't allocate memory|not enough memory",
            re.IGNORECASE,
        ),
        _MEMORY,
    ),
    (
        re.compile(
            r"SafetensorError|HeaderTooLarge|InvalidHeader|MetadataIncompleteBuffer|Cannot find any model weights"
            r"|No such file or directory.*(safetensors|\.bin|config\.json)|Error while deserializing header"
            # A folder that is not there is taken for a repository's name.
            r"|Repo id must |HFValidationError|RepositoryNotFoundError|is not a valid model identifier"
        ),
        _WEIGHTS,
    ),
    (
        re.compile(r"Model architectures .* (are not supported|failed to be inspected)|not supported by vLLM"),
        LoadError("the engine cannot serve its architecture", permanent=True),
    ),
    (
        re.compile(r"EngineArgumentError|engine_args"),
        LoadError("the engine refuses its engine_args", permanent=True),
    ),
    (re.compile(r"ModuleNotFoundError|No module named"), LoadError("its engine is not installed there")),
)


def explain(exit_code: int | None, last_words: Iterable[str]) -> LoadError:
    """Return what the end of a replica's log says of its failed load."""
    text = "\n".join(last_words)
    for pattern, error in _KNOWN:
        if pattern.search(text):
            return error
    if exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return LoadError("its worker was killed, which the kernel does when memory runs out")
    return LoadError("its engine did not start")
