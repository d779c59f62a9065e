"""What vLLM's serving layer made of a plain body, kept for those that differ in their messages or prompt alone.

To check a body, its sampling parameters and its template options takes as long as a few
tokens, and clients send the same ones with every question. The layer prepares the first
of them. Of the others, vLLM's template and tokenizer make the prompt, vLLM's own rule says
how many tokens fit behind it, and the engine's core is handed the same request but for that.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

from workers.engine import vllm_prompts
from workers.engine.vllm_plain_run import Asked
from workers.engine.vllm_rendering import Rendering
from workers.engine.vllm_samples import Usage

log = logging.getLogger(__name__)

# Seeds make every body another.
_MOST = 256
# In bytes: a client may send stop texts of any length.
_LONGEST = 4096
# They change nothing that is asked of the engine.
_BESIDE = frozenset({"messages", "prompt", "request_id", "user"})


class Recipe:
    """How to prepare any body with the same fields as that for which vLLM's serving layer has asked for `asked`.

    `max_tokens` is the body's own limit, as vLLM has read it.
    """

    def __init__(self, rendering: Rendering, asked: Asked, usage: Usage, max_tokens: int | None) -> None:
        self.rendering = rendering
        # Not its prompt, which may be long.
        self.params = asked.params
        self.options = asked.options
        self.usage = usage
        self.max_tokens = max_tokens
        self.request: Any = None
        """What the engine's core was handed when this was followed first (vLLM's `EngineCoreRequest`)."""
        self.quick: Callable[[Mapping[str, Any]], Any] | None = None
        """What `rendering` comes to, in less time; None where it did not, or has not been tried yet."""


class Recipes:
    """Those of one endpoint. `serving` is vLLM's `OpenAIServingChat` or `OpenAIServingCompletion`, `llm` its engine."""

    def __init__(self, serving: Any, llm: Any, tasks: Any) -> None:
        self._serving = serving
        self._llm = llm
        self._tasks = tasks
        self._kept: dict[bytes, Recipe] = {}
        self._numbers = itertools.count()

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
        self._kept[key] = Recipe(rendering, asked, Usage.asked_for(request.stream_options), limit)

    def ask(self, recipe: Recipe, body: Mapping[str, Any], request_id: str) -> Asked | None:
        """Return what the serving layer would ask for; None where it has to see for itself.

        Raises whatever vLLM's renderer has against `body`.
        """
        prompt = self._prompt(recipe, body)
        if prompt.get("type") != "token":
            return None
        serving = self._serving
        ids = prompt["prompt_token_ids"]
        most = get_max_tokens(
            serving.model_config.max_model_len,
            recipe.max_tokens,
            len(ids),
            serving.default_sampling_params,
            serving.override_max_tokens,
        )
        if not ids or most < max(1, recipe.params.min_tokens):
            return None
        if recipe.request is None:
            recipe.request = self._prepare(recipe, body, prompt, request_id)
        else:
            serving.renderer.validate_token_ids(ids)
        request = copy.copy(recipe.request)
        request.external_req_id = request_id
        # vLLM makes ids its own by eight hexadecimal digits by chance.
        request.request_id = f"{request_id}-n{next(self._numbers)}"
        request.prompt_token_ids, request.arrival_time = ids, prompt["arrival_time"]
        if request.sampling_params.max_tokens != most:
            request.sampling_params = copy.copy(request.sampling_params)
            request.sampling_params.max_tokens = most
        return Asked(prompt, request.sampling_params, request_id, recipe.options, request)

    def _prompt(self, recipe: Recipe, body: Mapping[str, Any]) -> Any:
        if recipe.quick is not None:
            try:
                return recipe.quick(body)
            except Exception:  # noqa: BLE001, S110 - what is wrong with it, vLLM says in its own words
                pass
        return recipe.rendering.of(self._serving.renderer, body)

    def _prepare(self, recipe: Recipe, body: Mapping[str, Any], prompt: Any, request_id: str) -> Any:
        """Make of the first body what vLLM's engine would, and see whether its prompt comes quicker."""
        try:
            quick = vllm_prompts.maker(self._serving.renderer, recipe.rendering)
            if quick is not None and quick(body) | {"arrival_time": prompt["arrival_time"]} == prompt:
                recipe.quick = quick
        except Exception as error:  # noqa: BLE001 - a release of vLLM that is built otherwise; it goes on by itself
            log.warning("prompts are left to vLLM", extra={"event": "no_quick_prompts", "reason": type(error).__name__})
        options = dict(recipe.options)
        reasoning = {name: options.pop(name, None) for name in ("reasoning_ended", "reasoning_parser_kwargs")}
        request = self._llm.input_processor.process_inputs(
            request_id, prompt, recipe.params, supported_tasks=self._tasks, **options
        )
        for name, value in reasoning.items():
            setattr(request, name, value)
        return request


def _key(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps({name: value for name, value in body.items() if name not in _BESIDE})
