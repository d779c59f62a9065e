"""Short prompts are rendered where they are, on the loop; vLLM takes every prompt to a thread and back, twice.

The functions are vLLM's own either way. A thread costs a prompt of a few hundred
characters more than its rendering does, and both want the same interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from workers.engine.vllm_tape import TAPE

# Rendered and made tokens of within half a millisecond.
_SHORT = 2000
_FEW = 100
_ROLES = frozenset({"system", "user", "assistant"})
_MESSAGE = {"role", "content"}


class Rendering(Protocol):
    """How a body with certain fields is rendered, in vLLM's terms."""

    def suits(self, body: Mapping[str, Any]) -> bool:
        """Say whether what `body` has to say is usual enough for it, and short."""
        ...

    def of(self, renderer: Any, body: Mapping[str, Any]) -> Any:
        """Return the engine's input for `body`. Raises whatever vLLM's renderer has against it."""
        ...


@dataclass(frozen=True, slots=True)
class ChatRendering:
    """Satisfies `Rendering`."""

    chat_params: Any
    token_params: Any
    extras: dict[str, Any]

    def suits(self, body: Mapping[str, Any]) -> bool:
        return _usual(body.get("messages"))

    def of(self, renderer: Any, body: Mapping[str, Any]) -> Any:
        _, (prompt,) = renderer.render_chat(
            [body["messages"]], self.chat_params, self.token_params, prompt_extras=self.extras
        )
        return prompt


@dataclass(frozen=True, slots=True)
class TextRendering:
    """Satisfies `Rendering`, for completions."""

    token_params: Any
    extras: dict[str, Any]

    def suits(self, body: Mapping[str, Any]) -> bool:
        return _is_short_text(body)

    def of(self, renderer: Any, body: Mapping[str, Any]) -> Any:
        (prompt,) = renderer.render_cmpl([{"prompt": body["prompt"]}], self.token_params, prompt_extras=self.extras)
        return prompt


def render_short_prompts_here(renderer: Any) -> None:
    """Change what vLLM's renderer does with prompts that are short, and have it tell `TAPE` how it renders."""
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
            tape.rendering = ChatRendering(chat_params, tok_params, dict(prompt_extras or {}))
        options["prompt_extras"] = prompt_extras
        if all(_is_short(talk) for talk in conversations) and not chat_params.chat_template_kwargs.get("tools"):
            return renderer.render_chat(conversations, chat_params, tok_params, **options)
        return await chat(conversations, chat_params, tok_params, **options)

    async def render_completion(
        prompts: Sequence[Any], tok_params: Any = None, *, prompt_extras: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        if (tape := TAPE.get()) is not None:
            tape.rendering = TextRendering(tok_params, dict(prompt_extras or {}))
        options["prompt_extras"] = prompt_extras
        if len(prompts) == 1 and isinstance(prompts[0], dict) and _is_short_text(prompts[0]):
            return renderer.render_cmpl(prompts, tok_params, **options)
        return await completion(prompts, tok_params, **options)

    renderer.render_chat_async = render_chat
    renderer.render_cmpl_async = render_completion


def _usual(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(message, dict)
            and message.keys() == _MESSAGE
            and isinstance(message["content"], str)
            and isinstance(message["role"], str)
            and message["role"] in _ROLES
            for message in messages
        )
        and _is_short(messages)
    )


def _is_short(conversation: Sequence[Any]) -> bool:
    """Say whether these messages are text, and little of it."""
    length = 0
    for message in conversation:
        if not isinstance(content := message.get("content"), str):
            return False  # an image may have to be fetched
        length += len(content)
    return length < _SHORT and len(conversation) < _FEW


def _is_short_text(prompt: Mapping[str, Any]) -> bool:
    text = prompt.get("prompt")
    return isinstance(text, str) and len(text) < _SHORT
