"""A plain body's prompt, made with vLLM's own parts and without what vLLM does around them.

Around its template and its tokenizer vLLM finds out for each prompt what is the same for
all of them: the template's text, its format and its variables, how to truncate and to pad.
Here that is found out once. Imports vllm; `workers.engine.vllm` is imported first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase, TokenizersBackend
from vllm.renderers import hf
from vllm.renderers.chat_utils import parse_chat_messages
from vllm.renderers.params import TokenizeParams

from workers.engine.vllm_rendering import ChatRendering, Rendering, TextRendering


def maker(renderer: Any, rendering: Rendering) -> Callable[[Mapping[str, Any]], Any] | None:
    """Return what makes `rendering.of(renderer, body)` of a body in less time; None where vLLM would do more to it.

    It raises something where vLLM might refuse the body.
    """
    text: Callable[[Mapping[str, Any]], str] | None
    match rendering:
        case ChatRendering(chat_params, params, extras) if params is not None and not extras:
            text = text_of(renderer, chat_params)
        case TextRendering(params, extras) if params is not None and not extras:
            text = _prompt
        case _:
            return None
    tokens = tokens_of(renderer, params)
    if text is None or tokens is None:
        return None
    most = params.max_total_tokens

    def make(body: Mapping[str, Any]) -> Any:
        written = text(body)
        ids = tokens(written)
        if most is not None and len(ids) > most:
            raise ValueError("too long")
        return {"type": "token", "prompt_token_ids": ids, "prompt": written, "arrival_time": time.time()}

    return make


def tokens_of(renderer: Any, params: Any) -> Callable[[str], list[int]] | None:
    """Return what makes tokens of a text as it is, however many; None where vLLM would do more to it by `params`."""
    tokenizer = renderer.tokenizer
    if not isinstance(tokenizer, TokenizersBackend) or params != _as_it_is(params):
        return None
    if type(tokenizer)._encode_plus is not TokenizersBackend._encode_plus:
        return None
    # vLLM itself makes tokens with copies of it.
    inner: Any = tokenizer._tokenizer
    special = params.add_special_tokens
    if inner.truncation is not None or inner.padding is not None or inner.encode_special_tokens:
        return None

    def tokens(text: str) -> list[int]:
        ids: list[int] = inner.encode_batch_fast([text], add_special_tokens=special)[0].ids
        return ids

    return tokens


def text_of(renderer: Any, params: Any) -> Callable[[Mapping[str, Any]], str] | None:
    """Return what writes a body's messages by the chat template, if they are text; None where vLLM would do more."""
    model, tokenizer = renderer.model_config, renderer.tokenizer
    if type(renderer) is not hf.HfRenderer or not isinstance(tokenizer, TokenizersBackend):
        return None
    told = params.get_apply_chat_template_kwargs()
    given, tools = told.pop("chat_template", None), told.pop("tools", None)
    template = hf.resolve_chat_template(tokenizer, given, tools, model_config=model)
    if template is None or tools or told.pop("tokenize", True):
        return None
    form = hf.resolve_chat_template_content_format(
        given, tools, params.chat_template_content_format, tokenizer, model_config=model
    )
    told = hf.resolve_chat_template_kwargs(tokenizer, template, told)
    media = {"media_io_kwargs": params.media_io_kwargs, "mm_processor_kwargs": params.mm_processor_kwargs}
    apply = PreTrainedTokenizerBase.apply_chat_template

    def text(body: Mapping[str, Any]) -> str:
        conversation, _, _ = parse_chat_messages(body["messages"], model, form, **media)
        return str(apply(tokenizer, conversation, None, chat_template=template, tokenize=False, **told))

    return text


def _prompt(body: Mapping[str, Any]) -> str:
    return str(body["prompt"])


def _as_it_is(params: Any) -> Any:
    """Return the same limits, with nothing else that is done to a text."""
    return TokenizeParams(
        max_total_tokens=params.max_total_tokens,
        max_output_tokens=params.max_output_tokens,
        add_special_tokens=params.add_special_tokens,
        max_total_tokens_param=params.max_total_tokens_param,
        max_output_tokens_param=params.max_output_tokens_param,
        truncate_prompt_tokens_param=params.truncate_prompt_tokens_param,
    )
