"""Short prompts are rendered where they are, on the loop; vLLM takes every prompt to a thread and back, twice.

The functions are vLLM's own either way. A thread costs a prompt of a few hundred
characters more than its rendering does, and both want the same interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.engine.vllm_tape import TAPE

# Rendered and made tokens of within half a millisecond.
_SHORT = 2000
_FEW = 100


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a chat is rendered, in vLLM's terms."""

    chat_params: Any
    token_params: Any
    extras: dict[str, Any]

    def of(self, renderer: Any, messages: Any) -> Any:
        """Return the engine's input for `messages`."""
        _, (prompt,) = renderer.render_chat([messages], self.chat_params, self.token_params, prompt_extras=self.extras)
        return prompt


def render_short_prompts_here(renderer: Any) -> None:
    """Change what vLLM's renderer does with prompts that are short, and have it tell `TAPE` how it renders a chat."""
    chat, completion = renderer.render_chat_async, renderer.render_cmpl_async

    async def render_chat(
        conversations: Sequence[Any],
        chat_params: Any,
        tok_params: Any = None,
        *,
        prompt_extras: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        if (tape := TAPE.get()) is not None:
            tape.rendering = Rendering(chat_params, tok_params, dict(prompt_extras or {}))
        options["prompt_extras"] = prompt_extras
        if all(is_short(talk) for talk in conversations) and not chat_params.chat_template_kwargs.get("tools"):
            return renderer.render_chat(conversations, chat_params, tok_params, **options)
        return await chat(conversations, chat_params, tok_params, **options)

    async def render_completion(prompts: Sequence[Any], *args: Any, **options: Any) -> Any:
        if len(prompts) == 1 and _is_short_text(prompts[0]):
            return renderer.render_cmpl(prompts, *args, **options)
        return await completion(prompts, *args, **options)

    renderer.render_chat_async = render_chat
    renderer.render_cmpl_async = render_completion


def is_short(conversation: Sequence[Any]) -> bool:
    """Say whether these messages are text, and little of it."""
    length = 0
    for message in conversation:
        if not isinstance(content := message.get("content"), str):
            return False  # an image may have to be fetched
        length += len(content)
    return length < _SHORT and len(conversation) < _FEW


def _is_short_text(prompt: Any) -> bool:
    text = prompt.get("prompt") if isinstance(prompt, dict) else None
    return isinstance(text, str) and len(text) < _SHORT
