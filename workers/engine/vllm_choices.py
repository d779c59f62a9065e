"""The choices of one prompt, from their first token to their last, across engines: made again, then gone on with.

Each has vLLM's own detokenizer over all of its tokens, which finds the stop texts too: to
the engine, what was given before the move is prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.utils.async_utils import merge_async_iterators
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from workers.engine.vllm_tape import Tape
from workers.engine.vllm_trail import TEXT, Output, Said, TrailError


def check_reach(tape: Tape, choices: int) -> None:
    """Raise TrailError where the trail tells of prompts or choices that the body does not have."""
    for output in tape.past:
        if output.prompt >= tape.prompts or any(said.choice >= choices for said in output.said):
            raise TrailError("the trail is that of another request")


class Choices:
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
            check_reach(tape, self._params.n)
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
