"""Has vLLM's serving layer hand out what it would ask of the engine for a plain answer, instead of writing the answer.

Everything before that, the checks, the prompt and the sampling parameters, stays vLLM's.
"""

from __future__ import annotations

from typing import Any

from workers.engine.vllm_tape import TAPE


def give_plain_answers_away(chat: Any, completion: Any) -> None:
    """Change what the handlers of `OpenAIServingChat` and `OpenAIServingCompletion` return while a plain `TAPE` is set.

    That is an `Asked` then, in place of frames or an answer.
    """
    chat_stream, chat_whole = chat.chat_completion_stream_generator, chat.chat_completion_full_generator
    completion_stream = completion.completion_stream_generator
    completion_whole = completion.request_output_to_completion_response

    def stream_chat(*args: Any, **options: Any) -> Any:
        return _asked() or chat_stream(*args, **options)

    async def whole_chat(*args: Any, **options: Any) -> Any:
        return _asked() or await chat_whole(*args, **options)

    def stream_completion(*args: Any, **options: Any) -> Any:
        return _asked() or completion_stream(*args, **options)

    def whole_completion(*args: Any, **options: Any) -> Any:
        return _asked() or completion_whole(*args, **options)

    chat.chat_completion_stream_generator = stream_chat
    chat.chat_completion_full_generator = whole_chat
    completion.completion_stream_generator = stream_completion
    completion.request_output_to_completion_response = whole_completion


def _asked() -> Any:
    tape = TAPE.get()
    return tape and tape.asked
