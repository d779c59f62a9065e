"""What vLLM's serving layer made of a plain body, kept for those that differ in their messages or prompt alone.

To check a body, its sampling parameters and its template options takes as long as a few
tokens, and clients send the same ones with every question. The layer prepares the first
of them. Of the others, vLLM's renderer makes the prompt, and vLLM's own rule says how many
tokens fit behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

from workers.engine.vllm_plain_run import Asked
from workers.engine.vllm_rendering import Rendering
from workers.engine.vllm_samples import Usage

# Seeds make every body another.
_MOST = 256
# In bytes: a client may send stop texts of any length.
_LONGEST = 4096
# They change nothing that is asked of the engine.
_BESIDE = frozenset({"messages", "prompt", "request_id", "user"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to prepare any body with the same fields."""

    rendering: Rendering
    params: Any
    options: dict[str, Any]
    usage: Usage
    max_tokens: int | None
    """As vLLM has read it."""


class Recipes:
    """Those of one endpoint. `serving` is vLLM's `OpenAIServingChat` or `OpenAIServingCompletion`."""

    def __init__(self, serving: Any) -> None:
        self._serving = serving
        self._kept: dict[bytes, Recipe] = {}

    def of(self, body: Mapping[str, Any]) -> Recipe | None:
        """Return how a body with these fields is prepared, if one was and what it has to say is usual."""
        recipe = self._kept.get(_key(body))
        return recipe if recipe is not None and recipe.rendering.suits(body) else None

    def keep(self, body: Mapping[str, Any], rendering: Rendering, asked: Asked, request: Any) -> None:
        """Learn from what the serving layer has asked of the engine for `body`, which it read as `request`."""
        if len(key := _key(body)) > _LONGEST:
            return
        if len(self._kept) >= _MOST:
            del self._kept[next(iter(self._kept))]
        limit = getattr(request, "max_completion_tokens", None)
        limit = request.max_tokens if limit is None else limit
        usage = Usage.asked_for(request.stream_options)
        self._kept[key] = Recipe(rendering, asked.params, asked.options, usage, limit)

    def ask(self, recipe: Recipe, body: Mapping[str, Any], request_id: str) -> Asked | None:
        """Return what the serving layer would ask for; None where it has to see for itself.

        Raises whatever vLLM's renderer has against `body`.
        """
        prompt = recipe.rendering.of(self._serving.renderer, body)
        if prompt.get("type") != "token":
            return None
        serving = self._serving
        most = get_max_tokens(
            serving.model_config.max_model_len,
            recipe.max_tokens,
            len(prompt["prompt_token_ids"]),
            serving.default_sampling_params,
            serving.override_max_tokens,
        )
        params = recipe.params.clone()
        if most < params.min_tokens:
            return None
        params.max_tokens = most
        return Asked(prompt, params, request_id, recipe.options)


def _key(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps({name: value for name, value in body.items() if name not in _BESIDE})
