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
from collections.abc import AsyncGenerator, Sequence
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.utils.async_utils import merge_async_iterators
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from workers.engine.vllm_tape import Tape
from workers.engine.vllm_trail import TEXT, Output, Said, TrailError

TAPE: ContextVar[Tape | None] = ContextVar("TAPE", default=None)
"""The tape of the job on whose behalf the serving layer is called."""

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
            choices = _Choices(self._llm, prompt, params, request_id, options)
            if choices.take_over(tape, number):
                tape.follow(number, choices.so_far)
                async with contextlib.aclosing(choices.go_on()) as outputs:
                    async for _ in outputs:
                        tape.token()
                yield choices.whole()
                return
        tape.follow(number, lambda: self._so_far(request_id))
        self._silent[request_id] = tape
        try:
            async with contextlib.aclosing(self._llm.generate(prompt, params, request_id, **options)) as outputs:
                async for output in outputs:
                    tape.token()
                    tape.follow(number, partial(list, output.outputs))
                    yield output
        finally:
            self._silent.pop(request_id, None)

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
            _check_reach(tape, params.n)
            choices = _Choices(self._llm, prompt, params, request_id, options)
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


def _check_reach(tape: Tape, choices: int) -> None:
    """Raise TrailError where the trail tells of prompts or choices that the body does not have."""
    for output in tape.past:
        if output.prompt >= tape.prompts or any(said.choice >= choices for said in output.said):
            raise TrailError("the trail is that of another request")


class _Choices:
    """The choices of one prompt, from their first token to their last, across engines."""

    def __init__(self, llm: Any, prompt: Any, params: Any, request_id: str, options: dict[str, Any]) -> None:
        self._llm = llm
        self._prompt = prompt
        self._params = params
        self._request_id = request_id
        self._options = options
        self._ids: list[int] = prompt["prompt_token_ids"]
        tokenizer = llm.output_processor.tokenizer
        self._choices = [_Choice(index, tokenizer, self._ids, params) for index in range(params.n)]

    def replay(self, output: Output) -> Any:
        """Make again what the engine gave."""
        scored, prompt_scored = self._params.logprobs is not None, self._params.prompt_logprobs is not None
        completions = []
        for said in output.said:
            text, tokens, finish, reason = self._choices[said.choice].replay(said)
            completions.append(
                CompletionOutput(
                    index=said.choice,
                    text=text,
                    token_ids=tokens,
                    cumulative_logprob=None,
                    logprobs=[None] * len(tokens) if scored else None,
                    finish_reason=finish,
                    stop_reason=reason,
                )
            )
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt.get("prompt"),
            prompt_token_ids=self._ids,
            prompt_logprobs=[None] * len(self._ids) if prompt_scored else None,
            outputs=completions,
            finished=False,
        )

    def take_over(self, tape: Tape, number: int) -> bool:
        """Take in what was said of a whole answer. Returns whether the engine can go on from there."""
        vocabulary = self._llm.vllm_config.model_config.get_vocab_size()
        try:
            _check_reach(tape, self._params.n)
            for _, output in tape.past_of(number):
                for said in output.said:
                    if max(said.tokens, default=0) >= vocabulary:
                        raise TrailError("the trail is that of another model")
                    self._choices[said.choice].replay(said)
            for choice in self._choices:
                if not choice.ended:
                    _rest_of(self._params, choice)
        except TrailError:
            return False
        return True

    def so_far(self) -> list[Any]:
        """Return the choices that have begun, for `vllm_trail.encode`."""
        return [choice for choice in self._choices if choice.token_ids or choice.ended]

    def whole(self) -> Any:
        """Return what the engine would have given at the end of an undisturbed run."""
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt.get("prompt"),
            prompt_token_ids=self._ids,
            prompt_logprobs=None,
            outputs=[choice.whole() for choice in self._choices],
            finished=True,
        )

    async def go_on(self) -> AsyncGenerator[Any, None]:
        """Yield the engine's outputs for whatever has not ended."""
        runs = [self._continue(choice) for choice in self._choices if not choice.ended]
        if not runs:
            return
        async with contextlib.aclosing(merge_async_iterators(*runs)) as merged:
            async for _, output in merged:
                yield output

    async def _continue(self, choice: _Choice) -> AsyncGenerator[Any, None]:
        prompt = {**self._prompt, "prompt_token_ids": [*self._ids, *choice.token_ids]}
        prompt.pop("prompt_token_offsets", None)
        params = _rest_of(self._params, choice)
        run = self._llm.generate(prompt, params, self._request_id, **self._options)
        async with contextlib.aclosing(run) as outputs:
            async for output in outputs:
                (completion,) = output.outputs
                choice.mend(completion)
                output.prompt = self._prompt.get("prompt")
                output.prompt_token_ids = self._ids
                yield output
                if choice.ended:  # by a stop text, of which the engine does not know
                    return


def _rest_of(params: Any, choice: _Choice) -> Any:
    """Return what the engine is asked for when the choice's tokens so far are its prompt."""
    given = len(choice.token_ids)
    rest = params.clone()
    rest.max_tokens = params.max_tokens - given
    if rest.max_tokens < 1:
        raise TrailError("the trail has more tokens than were asked for")
    rest.min_tokens = max(0, params.min_tokens - given)
    if params.n > 1:
        rest.n = 1
        rest.seed = None if params.seed is None else params.seed + choice.index  # as vLLM does
    # Looked for here, in a text that begins before the move: so each token must come at once.
    rest.stop = []
    rest.output_kind = RequestOutputKind.DELTA
    rest.prompt_logprobs = None
    rest.prompt_logprob_token_ids = None
    return rest


class _Choice:
    """One choice: its tokens so far, and vLLM's own detokenizer over all of them."""

    def __init__(self, index: int, tokenizer: Any, prompt_ids: list[int], params: Any) -> None:
        self.index = index
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        request = SimpleNamespace(
            request_id="", prompt_token_ids=prompt_ids, prompt_embeds=None, sampling_params=params
        )
        self._text = IncrementalDetokenizer.from_new_request(tokenizer if params.detokenize else None, request)

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None

    def whole(self) -> Any:
        return CompletionOutput(
            index=self.index,
            text=self._text.get_next_output_text(True, False),
            token_ids=self.token_ids,
            cumulative_logprob=None,
            logprobs=None,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def replay(self, said: Said) -> tuple[str, list[int], str | None, int | str | None]:
        finish = None if said.finish == TEXT else said.finish
        found = self._feed(said.tokens, finish, said.stop_token)
        if said.finish == TEXT and not self.ended:
            raise TrailError("the stop text is not where it was")
        return found

    def mend(self, completion: Any) -> None:
        """Turn what the engine said of a continuation into what it would have said of the whole."""
        completion.index = self.index
        completion.text, completion.token_ids, completion.finish_reason, completion.stop_reason = self._feed(
            completion.token_ids, completion.finish_reason, completion.stop_reason
        )
        if completion.logprobs:
            completion.logprobs = completion.logprobs[: len(completion.token_ids)]

    def _feed(
        self, tokens: Sequence[int], finish: str | None, reason: int | str | None
    ) -> tuple[str, list[int], str | None, int | str | None]:
        """Do with new tokens as vLLM's output processor does."""
        before = self._text.num_output_tokens()
        stop = self._text.update(list(tokens), finish == "stop")
        kept = list(tokens)
        if stop is not None:
            kept = kept[: self._text.num_output_tokens() - before]
            finish, reason = "stop", stop
        self.token_ids += kept
        if finish is not None:
            self.finish_reason, self.stop_reason = finish, reason
        return self._text.get_next_output_text(self.ended, True), kept, finish, reason
