"""What a model can be asked, as far as its folder tells: nobody has to wait for an engine to be refused by it."""

from __future__ import annotations

from workers.registry import ModelSpec, Registry
from workers.servable import argument
from workers.vllm_names import ANSWERING, EMBEDDING

ANSWERS = frozenset({"chat", "completion"})
EMBEDS = frozenset({"embedding"})

# With any of these, vLLM may make something else of the model than its config says.
_TURNING = ("runner", "convert", "task", "hf_overrides", "model_impl", "pooler_config", "override_pooler_config")


def endpoints(registry: Registry, spec: ModelSpec) -> frozenset[str] | None:
    """Return the endpoints (`workers.engine.base.Job`) that the model has; None where only its engine can tell."""
    folder = registry.folders.get(spec.id)
    if folder is None or spec.engine != "vllm" or any(argument(spec.engine_args, name) for name in _TURNING):
        return None
    architecture = folder.config.architecture
    if architecture in ANSWERING:
        # Whoever made an embedding model of one that writes text left a file that vLLM goes by.
        return None if (folder.path / "modules.json").is_file() else ANSWERS
    return EMBEDS if architecture in EMBEDDING else None
