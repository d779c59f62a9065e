"""One job's tape: which outputs of the engine led to which frames, and where another run goes on.

Knows nothing of vLLM but the text of its frames. While a job runs, what vLLM's serving
layer takes from the engine is noted (`heard`) and goes out as the trail of the next
frame. A job that goes on plays the tape of the earlier runs to the serving layer first,
so that its parsers, counts and the role come to where they were; the frames that come
of it are those the client has, and are counted instead of sent.

An answer that does not stream has no frames. Its tape can be asked at any time for all
that the engine has said of it, and one that goes on from there has seen no client: where
it cannot, it begins anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from workers.engine.base import Frames, Job, RequestRefusedError
from workers.engine.vllm_trail import Output, TrailError, decode, encode

# The fields that an answer keeps throughout. Only vLLM writes them in this order.
_HEAD = re.compile(r'data: \{"id":"[^"]*","object":"[^"]*","created":\d+')
# Inside generated text the quotes would be escaped.
_TOOL_CALL = '"tool_calls":'
# Before what a whole answer leaves: another engine's numbers are no tokens.
_FORM = b"vllm1:"


def lost() -> RequestRefusedError:
    return RequestRefusedError("engine_failed", "The answer cannot be continued; repeat the request.")


class Tape:
    """Made once a job. Raises RequestRefusedError where the job cannot go on from `job.resume`."""

    def __init__(self, job: Job, *, plain: bool = False) -> None:
        self._job = job
        self.plain = plain and job.resume is None
        """Whether the answer may be written without vLLM's serving layer."""
        self.asked: Any = None
        """What that layer has asked of the engine for such an answer (`vllm_plain_run.Asked`)."""
        self.rendering: Any = None
        """How it has rendered a chat (`vllm_rendering.Rendering`)."""
        self._noted: list[str] = []
        self._sealed = False
        self._told = False
        self._live = False
        self._skip = 0
        self._head: str | None = None
        self.prompts = 0
        """How many prompts the body has; known once vLLM has asked for all of them."""
        self.turn = asyncio.Lock()
        """Held while the serving layer has an output in hand, where several prompts give them: the order of the
        trail is that of its frames."""
        self.past: list[Output] = []
        """What the earlier runs said."""
        self._said: dict[int, Callable[[], Sequence[Any]]] = {}
        self._latest: dict[int, str] = {}
        if not job.stream:
            self.past = _past_of_whole(job)
        elif job.resume is not None:
            self._skip = job.resume.frames
            head = _HEAD.match(job.resume.first.decode())
            if head is None:
                raise lost()
            self._head = head[0]
            try:
                self.past = decode(job.resume.trail)
            except TrailError:
                raise lost() from None
            if not self.past:
                raise lost()
        self._played = [asyncio.Event() for _ in self.past]

    @property
    def streams(self) -> bool:
        return self._job.stream

    @property
    def sealed(self) -> bool:
        return self._sealed

    def next_prompt(self) -> int:
        """Number a prompt, as vLLM's serving layer asks for its answer."""
        self.prompts += 1
        return self.prompts - 1

    def seal(self) -> None:
        """Let nobody go on from here on: what comes now has a form that must not be spliced."""
        self._sealed = True

    def token(self) -> None:
        """Report the first token of this run, once."""
        if not self._told:
            self._told = True
            self._job.on_token()

    def heard(self, prompt: int, completions: Sequence[Any]) -> None:
        """Note an output of the engine that the serving layer is about to take."""
        if not self._live:
            self._live = True
            self.token()
        if not self._sealed:
            self._noted.append(encode(prompt, completions))

    def follow(self, prompt: int, said: Callable[[], Sequence[Any]]) -> None:
        """Have `said` tell what there is of a prompt's choices (`CompletionOutput`s, whole), where nothing streams."""
        self._said[prompt] = said

    def progress(self) -> bytes | None:
        """Return what another engine needs to go on with an answer that does not stream; see `Progress`."""
        if self._sealed or len(self._said) < self.prompts:
            return None
        for prompt, said in self._said.items():
            # Of a choice that has just ended the engine knows nothing any more, and its output is on the way.
            if completions := said():
                self._latest[prompt] = encode(prompt, completions)
        return _FORM + ";".join(self._latest.values()).encode() if self._latest else None

    def past_of(self, prompt: int) -> Iterator[tuple[int, Output]]:
        """Yield a prompt's outputs with their places in the whole order."""
        return ((number, output) for number, output in enumerate(self.past) if output.prompt == prompt)

    async def wait_for(self, number: int) -> None:
        """Return when every output before `number` has been played."""
        if number:
            await self._played[number - 1].wait()

    def played(self, number: int) -> None:
        self._played[number].set()

    def frames(self, frame: str) -> Frames | None:
        """Return what goes to the client of a frame of vLLM's, and that is nothing if it has it already.

        Raises RequestRefusedError when new outputs are on their way before all of the old frames were.
        """
        if self._skip:
            # With several prompts an output may be heard while frames of the last one played are still to come.
            if self._live and self.prompts == 1:
                raise lost()
            self._skip -= 1
            return None
        if self._head is not None:
            frame = _HEAD.sub(lambda _: self._head or "", frame, count=1)
        if _TOOL_CALL in frame:
            self._sealed = True
        if self._sealed:
            return Frames(frame.encode(), None)
        trail = ";".join(self._noted).encode()
        self._noted.clear()
        return Frames(frame.encode(), trail)

    def end(self) -> None:
        """Raises RequestRefusedError if the client has more frames than there were."""
        if self._skip:
            raise lost()


TAPE: ContextVar[Tape | None] = ContextVar("TAPE", default=None)
"""The tape of the job on whose behalf the serving layer is called."""


def _past_of_whole(job: Job) -> list[Output]:
    """Return what earlier runs of a job that does not stream have left; nothing where it cannot be read."""
    state = job.resume.trail[-1] if job.resume and job.resume.trail else b""
    if not state.startswith(_FORM):
        return []
    try:
        return decode([state.removeprefix(_FORM)])
    except TrailError:
        return []
