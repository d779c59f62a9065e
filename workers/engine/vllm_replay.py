"""Between vLLM's serving layer and its engine: what is noted there, and how an answer goes on.

The serving layer asks `NotingClient` for the outputs of a prompt and believes it to be
the engine. On a fresh job it is, but for a note of each output. On a job that goes on,
the outputs that earlier engines gave come first, made again from their tokens; then the
engine continues each choice that has not ended, from prompt and tokens so far.

Greedy answers go on with the same text. A sampled one goes on validly, but with other
draws, also where it has a seed; presence and frequency penalties count from the move on
(the tokens before it are prompt to the engine). Log probabilities of outputs played
again are empty, which nobody sees: their frames have been sent. An answer that does not
stream is made of all its tokens at its end, so where they were asked for it begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from types import SimpleNamespace
from typing import Any

from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from workers.engine.base import Progress, Result
from workers.engine.vllm_choices import Choices, check_reach
from workers.engine.vllm_plain_run import Asked, PlainRun
from workers.engine.vllm_tape import TAPE, Tape

# What has no plain tokens, or two prompts, cannot be continued by appending tokens.
_CONTINUABLE = frozenset({"token", "multimodal"})


class NotingClient:
    """Stands in for vLLM's engine client; all but `generate` is the client's own."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._silent: dict[str, Tape] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def generate(self, prompt: Any, sampling_params: Any, request_id: str, **options: Any) -> AsyncGenerator[Any, None]:
        """See `AsyncLLM.generate`. Called for each prompt of a body before any of them is iterated."""
        tape = TAPE.get()
        if tape is None:
            return self._llm.generate(prompt, sampling_params, request_id, **options)  # type: ignore[no-any-return]
        if sampling_params.structured_outputs is not None or prompt.get("type") not in _CONTINUABLE:
            tape.seal()
        elif tape.plain:
            tape.next_prompt()
            tape.asked = Asked(prompt, sampling_params, request_id, options)
            return tape.asked  # type: ignore[no-any-return]  # it is handed out: see `vllm_shortcut`
        if tape.streams:
            return self._noted(tape, tape.next_prompt(), prompt, sampling_params, request_id, **options)
        if sampling_params.logprobs is not None or sampling_params.prompt_logprobs is not None:
            tape.seal()
        return self._whole(tape, tape.next_prompt(), prompt, sampling_params, request_id, **options)

    def after_step(self) -> None:
        """Report the first tokens of answers that do not stream: vLLM gives those only when they are whole.

        Called by the engine's own task, which must not suffer from what a callback does.
        """
        if not self._silent:
            return
        processor = self._llm.output_processor
        for request_id, tape in list(self._silent.items()):
            states = [processor.request_states.get(id_) for id_ in processor.external_req_ids.get(request_id, ())]
            if any(state is not None and not state.is_prefilling for state in states):
                del self._silent[request_id]
                asyncio.get_running_loop().call_soon(tape.token)

    async def _whole(
        self, tape: Tape, number: int, prompt: Any, params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        """Yield the one output that vLLM gives of a prompt whose answer does not stream."""
        if tape.past and not tape.sealed:
            choices = Choices(self._llm, prompt, params, request_id, options)
            if choices.take_over(tape, number):
                tape.follow(number, choices.so_far)
                async with contextlib.aclosing(choices.go_on()) as outputs:
                    async for _ in outputs:
                        tape.token()
                yield choices.whole()
                return
        self._follow(tape, number, request_id)
        try:
            async with contextlib.aclosing(self._llm.generate(prompt, params, request_id, **options)) as outputs:
                async for output in outputs:
                    tape.token()
                    tape.follow(number, partial(list, output.outputs))
                    yield output
        finally:
            self._silent.pop(request_id, None)

    async def play(self, tape: Tape, run: PlainRun, progress: Progress) -> Result:
        """Have the engine generate what the tape was asked for, with `run` in the place of vLLM's queue, to its end.

        Whatever breaks it off aborts the request, once `progress` is kept.
        """
        asked: Asked = tape.asked
        internal_id = asked.request and asked.request.request_id
        try:
            if not tape.streams:
                self._follow(tape, 0, asked.request_id)
            if asked.request is not None:
                await self._llm._add_request(asked.request, asked.prompt.get("prompt"), None, 0, run)
            else:
                queue = await self._llm.add_request(asked.request_id, asked.prompt, asked.params, **asked.options)
                internal_id = queue.request_id
                if (early := queue.output) is not None:
                    run.put(early)
            if (state := self._llm.output_processor.request_states.get(internal_id)) is not None:
                state.queue, state._new_request_output = run, run.hear
            return await run.ended
        except (VLLMClientError, GracefulHTTPError, EngineDeadError):
            raise
        except BaseException as error:
            progress.freeze()
            run.ended.cancel()
            if internal_id is not None:
                await self._llm.abort(internal_id, internal=True)
            if isinstance(error, Exception):
                raise EngineGenerateError from error
            raise
        finally:
            self._silent.pop(asked.request_id, None)

    def _follow(self, tape: Tape, number: int, request_id: str) -> None:
        """Have the tape of an answer that comes whole know of its first token, and how far a prompt's choices are."""
        tape.follow(number, lambda: self._so_far(request_id))
        self._silent[request_id] = tape

    def _so_far(self, request_id: str) -> list[Any]:
        """Return what vLLM's engine has given of a prompt, for `vllm_trail.encode`."""
        processor = self._llm.output_processor
        found: dict[int, Any] = {}
        for id_ in processor.external_req_ids.get(request_id, ()):
            if (state := processor.request_states.get(id_)) is None:
                continue
            if state.parent_req is not None:  # it keeps the choices that have ended until all have
                found |= {ended.index: ended for ended in state.parent_req.output_aggregator if ended is not None}
            if tokens := state.detokenizer.output_token_ids:
                index = state.request_index
                found[index] = SimpleNamespace(index=index, token_ids=tokens, finish_reason=None, stop_reason=None)
        return list(found.values())

    async def _noted(
        self, tape: Tape, number: int, prompt: Any, params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        if tape.past:
            check_reach(tape, params.n)
            choices = Choices(self._llm, prompt, params, request_id, options)
            for place, output in tape.past_of(number):
                await tape.wait_for(place)
                yield choices.replay(output)
                tape.played(place)
            await tape.wait_for(len(tape.past))
            source = choices.go_on()
        else:
            source = self._llm.generate(prompt, params, request_id, **options)
        async with contextlib.aclosing(source) as outputs:
            async for output in outputs:
                if tape.prompts == 1:
                    tape.heard(number, output.outputs)
                    yield output
                    continue
                async with tape.turn:
                    tape.heard(number, output.outputs)
                    yield output
