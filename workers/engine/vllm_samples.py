"""What vLLM's serving layer writes of a plain answer, as patterns, by having it write some.

Imports vllm; `workers.engine.vllm` is imported first. Where the layer is set up to write
more than text into its frames (reasoning, metrics, cached tokens), there are no patterns.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Self

from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.parser.abstract_parser import DelegatingParser

from workers.engine.vllm_answers import DONE
from workers.engine.vllm_patterns import FINISH, ID, STOP, TEXT, FramePatterns, Pattern, PatternError

_USAGE = ("prompt", "completion", "total")
# vLLM's own parser of tool calls hands text on as it is where there are no tools, unless one of these is another.
_PASSING_ON = ("parse", "parse_delta", "_extract_tool_calls", "_extract_tool_calls_streaming", "_flush_engine_parsers")


@dataclass(frozen=True, slots=True)
class Usage:
    """Which token counts a stream tells."""

    at_end: bool = False
    throughout: bool = False

    @classmethod
    def asked_for(cls, options: Any) -> Self:
        """Return what a request's `stream_options` ask for."""
        at_end = bool(options and options.include_usage)
        return cls(at_end, at_end and bool(options.continuous_usage_stats))

    @property
    def options(self) -> dict[str, bool] | None:
        return {"include_usage": True, "continuous_usage_stats": self.throughout} if self.at_end else None


_USAGES = (Usage(), Usage(at_end=True), Usage(at_end=True, throughout=True))


@dataclass(frozen=True, slots=True)
class Patterns:
    """What plain answers of one endpoint look like."""

    streams: dict[Usage, FramePatterns]
    whole: Pattern


async def chat_patterns(serving: Any, model: str) -> Patterns | None:
    """Return what vLLM's `OpenAIServingChat` writes; None where frames have more than text.

    Raises PatternError where it writes something unknown.
    """
    if not _writes_text_only(serving) or not _parser_passes_on(serving):
        return None
    tokenizer = serving.renderer.tokenizer

    async def frames(usage: Usage, outputs: list[CompletionOutput]) -> list[str]:
        request = _chat_request(model, stream=True, stream_options=usage.options)
        metadata = RequestResponseMetadata(request_id=ID)
        written = serving.chat_completion_stream_generator(request, _given(outputs), ID, model, [], tokenizer, metadata)
        return [frame async for frame in written]

    async def whole(text: str) -> Pattern:
        request = _chat_request(model, stream=False)
        parser = serving.parser_cls and serving._make_parser(request, tokenizer, {})
        metadata = RequestResponseMetadata(request_id=ID)
        answer = await serving.chat_completion_full_generator(
            request, _given([_ended(text)]), ID, model, [], tokenizer, metadata, parser
        )
        return _cut_whole(answer, "content")

    streams = {usage: await _streamed(frames, usage, opens=True) for usage in _USAGES}
    return Patterns(streams, _same(await whole(TEXT), await whole("")))


async def completion_patterns(serving: Any, model: str) -> Patterns | None:
    """Return what vLLM's `OpenAIServingCompletion` writes; see `chat_patterns`."""
    if not _writes_text_only(serving):
        return None

    async def frames(usage: Usage, outputs: list[CompletionOutput]) -> list[str]:
        request = CompletionRequest(model=model, prompt="?", stream=True, stream_options=usage.options)
        metadata = RequestResponseMetadata(request_id=ID)
        given = ((0, output) async for output in _given(outputs))
        written = serving.completion_stream_generator(request, [], given, ID, 0, model, 1, None, metadata)
        return [frame async for frame in written]

    def whole(text: str) -> Pattern:
        request = CompletionRequest(model=model, prompt="?")
        metadata = RequestResponseMetadata(request_id=ID)
        answer = serving.request_output_to_completion_response(
            [_output(_ended(text))], request, ID, 0, model, None, metadata
        )
        return _cut_whole(answer, "text")

    streams = {usage: await _streamed(frames, usage, opens=False) for usage in _USAGES}
    return Patterns(streams, _same(whole(TEXT), whole("")))


async def _streamed(write: Any, usage: Usage, *, opens: bool) -> FramePatterns:
    """Have answers streamed: one with every kind of token, and one whose end has no text."""
    frames = await write(usage, [_said(TEXT), _said(""), _ended(TEXT)])
    bare = await write(usage, [_said(TEXT), _ended("")])
    if frames.pop() != DONE or bare.pop() != DONE:
        raise PatternError("a stream has another end")
    slots = ("id", "created")
    counted = (*slots, *_USAGE) if usage.throughout else slots
    last = Pattern.cut(frames.pop(), *slots, *_USAGE) if usage.at_end else None
    if usage.at_end:
        bare.pop()
    opening = Pattern.cut(frames.pop(0), *counted) if opens else None
    token, *silent, end = frames
    return FramePatterns(
        opening=opening,
        token=Pattern.cut(token, *counted, "text"),
        silent=Pattern.cut(silent[0], *counted) if silent else None,
        last=Pattern.cut(end, *counted, "text", "finish", "stop"),
        bare_last=Pattern.cut(bare[-1], *counted, "finish", "stop"),
        usage=last,
    )


def _cut_whole(answer: Any, field: str) -> Pattern:
    """Cut an answer, the text of which stands in `field`."""
    body = answer.model_dump_json().replace(f'"{field}":""', f'"{field}":"{TEXT}"')
    return Pattern.cut(body, "id", "created", "text", "finish", "stop", *_USAGE)


def _same(pattern: Pattern, without_text: Pattern) -> Pattern:
    if pattern != without_text:
        raise PatternError("an answer without text looks different")
    return pattern


def _chat_request(model: str, **fields: Any) -> Any:
    return ChatCompletionRequest(model=model, messages=[{"role": "user", "content": "?"}], **fields)


async def _given(outputs: list[CompletionOutput]) -> AsyncGenerator[Any, None]:
    for output in outputs:
        yield _output(output)


def _output(output: CompletionOutput) -> RequestOutput:
    return RequestOutput(
        request_id=ID, prompt="?", prompt_token_ids=[1], prompt_logprobs=None, outputs=[output], finished=False
    )


def _said(text: str, **end: str) -> CompletionOutput:
    return CompletionOutput(index=0, text=text, token_ids=[1], cumulative_logprob=None, logprobs=None, **end)


def _ended(text: str) -> CompletionOutput:
    return _said(text, finish_reason=FINISH, stop_reason=STOP)


def _writes_text_only(serving: Any) -> bool:
    config = serving.engine_client.vllm_config
    return not (
        serving.enable_force_include_usage
        or serving.enable_prompt_tokens_details
        or serving.enable_per_request_metrics
        or config.model_config.is_encoder_decoder
        or config.aux_output_config.enable_return_routed_experts
        or config.speculative_config is not None
    )


def _parser_passes_on(serving: Any) -> bool:
    parser = serving.parser_cls
    if parser is None:
        return True
    return (
        issubclass(parser, DelegatingParser)
        and parser.reasoning_parser_cls is None
        and not getattr(parser.tool_parser_cls, "engine_based_streaming", True)
        and all(getattr(parser, name) is getattr(DelegatingParser, name) for name in _PASSING_ON)
    )
