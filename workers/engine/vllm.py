"""The vLLM engine: vLLM as a library, with its own OpenAI layer.

This module and those that the contract `vllm` in setup.cfg names are the only ones that
import vllm, and this one is imported first.

Handlers, chunk shapes, chat templates and parsers are vLLM's, and so are the bytes; no
HTTP server of vLLM's runs. vLLM's HTTP layer has limits of its own, but those on bodies
are in the request classes that are used here. What is added: one job in, frames and a
result out, refusals in our codes, and an end that leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, NoReturn

import psutil

from workers.engine import vllm_answers, vllm_args, vllm_errors, vllm_memory, vllm_requests
from workers.engine.base import (
    EngineDeadError,
    EngineLoad,
    Frames,
    Job,
    Progress,
    RequestRefusedError,
    Result,
    SleepNeed,
)
from workers.engine.frame_buffer import FrameBuffer
from workers.engine.orphan import new_scratch
from workers.engine.vllm_gauges import Gauges
from workers.engine.vllm_plain import is_plain
from workers.engine.vllm_plain_run import Asked, PlainAnswer, PlainRun, PlainStream
from workers.engine.vllm_pulse import CPU_STEP_S, GPU_STEP_S, Pulse
from workers.engine.vllm_tape import TAPE, Tape
from workers.registry import ModelSpec

# vLLM reads these while it is imported, so they stand above its imports.
os.environ.update({name: os.environ.get(name, value) for name, value in vllm_args.ENVIRONMENT.items()})

import huggingface_hub.constants
from pydantic import ValidationError
from starlette.requests import Request
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.platforms import current_platform
from vllm.v1.engine.exceptions import EngineDeadError as VllmEngineDeadError

from workers.engine import vllm_loading
from workers.engine.vllm_loading import EngineLoadError, Route
from workers.engine.vllm_replay import NotingClient
from workers.engine.vllm_samples import Usage

log = logging.getLogger(__name__)

_CLOSE_S = 5.0
# The child to be killed may not have been started yet.
_KILL_EVERY_S = 0.2
# `check` is asked before every request, and to look at a process takes longer than a token.
_LOOK_EVERY_S = 0.2


class VllmEngine:
    """One model in one vLLM engine; see `workers.engine.base.Engine`.

    Every coroutine runs on the loop that ran `start`. Loading and shutting down
    block for seconds to minutes, so each runs in a thread beside the loop.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._llm: Any = None
        self._client: Any = None
        self._loading: asyncio.Future[Any] | None = None
        self.scratch: str | None = None
        """The folder for sockets and temporary files, while there is one."""
        self._routes: dict[str, Route] = {}
        self._gauges = Gauges()
        self._pulse = Pulse(CPU_STEP_S if current_platform.is_cpu() else GPU_STEP_S)
        self._seats = 0
        self._in_flight = 0
        self._asleep = False
        self._stopped = False
        self._looked_at = float("-inf")
        self.sleep_need: SleepNeed | None = None
        self.kv_mib: int | None = None

    @property
    def endpoints(self) -> frozenset[str]:
        return frozenset(self._routes)

    async def start(self) -> None:
        """Load the model and answer one short request of each kind.

        Raises EngineArgumentError or EngineLoadError.
        """
        args = vllm_loading.arguments(self._spec)
        self._prepare_environment()
        self._loading = asyncio.ensure_future(asyncio.to_thread(vllm_loading.load, args))
        try:
            self._llm = await asyncio.shield(self._loading)
        except Exception as exc:
            raise EngineLoadError(
                f"model {self._spec.id}: vLLM could not load {args.model}: {type(exc).__name__}: {exc}"
            ) from exc
        self._client = NotingClient(self._llm)
        self._gauges.after_step = self._client.after_step
        # In place of vLLM's own loggers, one of which keeps Prometheus series at every step.
        self._llm.logger_manager.stat_loggers = [self._gauges]
        vllm_loading.count_no_tokens(self._llm, args)
        vllm_loading.log_like_ours()
        self._seats = self._llm.vllm_config.scheduler_config.max_num_seqs
        self._weigh()
        self._routes = await vllm_loading.routes(self._client, args)
        await self._warm_up()

    async def run(self, job: Job) -> AsyncIterator[Frames | Result]:
        """See `Engine.run`. Usage is vLLM's own count, also where the client did not ask for it."""
        route = self._routes.get(job.endpoint)
        self._assert_alive()
        if route is None:
            raise vllm_errors.unsupported(job.endpoint, self.endpoints, self._spec.id)
        body = vllm_requests.body(job, model=self._spec.id, id_prefix=route.id_prefix)
        tape = Tape(job, plain=route.patterns is not None and is_plain(job.endpoint, body))
        if not job.stream:
            job.progress.follow(tape.progress)
        result = None
        self._in_flight += 1
        try:
            answer = await self._begin(job, tape, route, body)
            if isinstance(answer, AsyncGenerator):
                async with contextlib.aclosing(answer) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Result):
                            result = piece
                        else:
                            yield piece
            else:
                result = await answer
        finally:
            self._in_flight -= 1
        if result is not None:
            yield result

    async def _begin(
        self, job: Job, tape: Tape, route: Route, body: dict[str, Any]
    ) -> AsyncGenerator[Frames | Result, None] | Coroutine[Any, Any, Result]:
        """Begin with the answer, and return what generates it, or the rest of it if frames go elsewhere."""
        if (usage := self._recall(job, tape, route, body)) is not None:
            return self._plain_answer(job, tape, route, usage)
        request = self._request(route, job, body)
        # The handlers leave their token counts in the state of an HTTP request.
        http = Request({"type": "http", "headers": [], "state": {}})
        answer = await self._answer(job, tape, route.handler(request, http))
        if isinstance(answer, Asked):
            if route.recipes is not None:
                route.recipes.keep(body, tape.rendering, answer, request)
            return self._plain_answer(job, tape, route, Usage.asked_for(request.stream_options))
        return self._vllms_answer(job, tape, answer, http)

    async def _vllms_answer(
        self, job: Job, tape: Tape, answer: Any, http: Request
    ) -> AsyncGenerator[Frames | Result, None]:
        """Pass on what vLLM's serving layer writes: frames, or a whole answer."""
        if not isinstance(answer, AsyncGenerator):
            tape.token()
            yield vllm_answers.result(answer)
            return
        finish = ""
        async with contextlib.aclosing(answer) as frames:
            async for frame in frames:
                if frame == vllm_answers.DONE:
                    continue
                if (error := vllm_answers.error(frame)) is not None:
                    self._raise(job, *error)
                finish = vllm_answers.finish_reason(frame) or finish
                if (piece := tape.frames(frame)) is not None:
                    yield piece
        tape.end()
        yield vllm_answers.result_of_stream(finish, http.state.request_metadata.final_usage_info)

    def load(self) -> EngineLoad:
        running = self._in_flight
        if running == 0:  # the numbers of the last step would stand until the next request
            return EngineLoad(seats=self._seats, running=0)
        gauges = self._gauges
        return EngineLoad(seats=self._seats, running=running, waiting=gauges.waiting, kv_usage=gauges.kv_usage)

    def room_beside(self, requests: int, slowdown: float) -> int | None:
        return self._gauges.step_times.room(requests, slowdown)

    def unfinished(self) -> int:
        """Return how many sequences vLLM holds: the choices of every request it has not finished or aborted."""
        return 0 if self._llm is None else int(self._llm.get_num_unfinished_requests())

    async def check(self) -> None:
        """See `Engine.check`. An engine that hangs is killed, since it might never notice that it should end."""
        self._assert_alive()
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self._stopped = any(_is_stopped(process.pid) for process in vllm_loading.engine_processes())
        # Asleep it makes no steps, whatever waits for it to wake.
        unfinished = 0 if self._asleep else self.unfinished()
        trouble = self._pulse.trouble(now, steps=self._gauges.steps, unfinished=unfinished, stopped=self._stopped)
        if trouble is not None:
            vllm_loading.kill_engine()
            raise EngineDeadError(f"the vLLM engine of model {self._spec.id} {trouble}")

    async def sleep(self) -> None:
        """See `Engine.sleep`. The prefix cache goes too: it points into the KV cache that is dropped."""
        self._assert_alive()
        self._asleep = True
        await self._call("go to sleep", self._llm.sleep(level=1))

    async def wake(self) -> None:
        if self._asleep:
            self._assert_alive()
            await self._call("wake up", self._llm.wake_up())
            self._asleep = False

    async def _call(self, what: str, doing: Coroutine[Any, Any, Any]) -> None:
        try:
            await doing
        except Exception as exc:
            raise EngineDeadError(f"the vLLM engine of model {self._spec.id} could not {what}: {exc}") from exc

    def _assert_alive(self) -> None:
        if self._llm is None or self._llm.errored:
            raise EngineDeadError(f"the vLLM engine of model {self._spec.id} has died")

    async def close(self) -> None:
        """Stop the engine's processes. Requests that still run end with EngineDeadError."""
        if self._loading is not None:
            while not self._loading.done():  # told to stop while it loads
                vllm_loading.kill_engine()
                await asyncio.wait([self._loading], timeout=_KILL_EVERY_S)
            with contextlib.suppress(Exception):
                self._llm = self._loading.result()
            self._loading = None
        llm, self._llm, self._client, self._routes = self._llm, None, None, {}
        self._gauges.after_step = self._gauges.ignore  # it leads back to vLLM's engine
        if llm is not None:
            llm.output_processor.propagate_error(VllmEngineDeadError())
            if llm.output_handler is not None:
                llm.output_handler.cancel()  # or it would report our closing as a failure
            await asyncio.to_thread(llm.shutdown, _CLOSE_S)
            await asyncio.sleep(0)  # the sockets are closed by a callback on the loop
            llm.engine_core.resources.ctx.destroy(linger=0)
            del llm
            gc.unfreeze()
            gc.collect()  # or its __del__ runs when the interpreter has taken its modules apart, and fails
        multiprocessing.active_children()  # collects those that have ended
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _prepare_environment(self) -> None:
        """Set what vLLM and its processes read from the environment, for this model."""
        self.scratch = new_scratch()
        os.environ.update(vllm_args.scratch_environment(self.scratch, usual=tempfile.gettempdir()))
        if vllm_args.is_folder(self._spec):
            os.environ["HF_HUB_OFFLINE"] = "1"
            huggingface_hub.constants.HF_HUB_OFFLINE = True  # it was read on import
        if current_platform.is_cpu():
            usable = len(os.sched_getaffinity(0))
            os.environ.update(vllm_args.cpu_environment(self._spec, cpus=usable))

    def _weigh(self) -> None:
        """Find out what the loaded engine has of its device."""
        config, cache = self._llm.vllm_config, self._llm.vllm_config.cache_config
        kind = vllm_loading.device_kind()
        blocks, tokens = cache.num_gpu_blocks or 0, cache.block_size
        self.kv_mib = vllm_memory.kv_mib(self._spec, kind, blocks=blocks, block_tokens=tokens)
        if config.model_config.enable_sleep_mode:
            self.sleep_need = vllm_memory.sleep_need(self._spec, kind)

    async def _warm_up(self) -> None:
        for endpoint in sorted(self.endpoints):
            job = vllm_requests.warm_up(endpoint)
            try:
                async for _ in self.run(job):
                    pass
            except RequestRefusedError as exc:  # a base model has no chat template
                log.info("endpoint refuses", extra={"event": "warm_up_refused", "endpoint": endpoint, "code": exc.code})

    def _recall(self, job: Job, tape: Tape, route: Route, body: dict[str, Any]) -> Usage | None:
        """Ask what vLLM's serving layer would, if it has prepared such a body before. Returns the usage to be told."""
        recipe = route.recipes.of(body) if route.recipes is not None and tape.plain else None
        if recipe is None or route.recipes is None:
            return None
        try:
            tape.asked = route.recipes.ask(recipe, body, route.id_prefix + body["request_id"])
        except Exception as exc:  # noqa: BLE001 - the boundary to vLLM, as in `_answer`
            self._raise_for(job, exc)
        if tape.asked is None:
            return None
        tape.next_prompt()
        return recipe.usage

    def _plain_answer(
        self, job: Job, tape: Tape, route: Route, usage: Usage
    ) -> AsyncGenerator[Frames | Result, None] | Coroutine[Any, Any, Result]:
        """Generate what vLLM's serving layer has asked for, and write it as that layer would."""
        assert route.patterns is not None
        answer_id = route.id_prefix + job.id.removeprefix(route.id_prefix)
        told = answer_id, len(tape.asked.prompt["prompt_token_ids"]), tape.token
        if not job.stream:
            whole = PlainAnswer(route.patterns.whole, *told, lambda said: tape.follow(0, lambda: said))
            return self._play(job, tape, whole)
        patterns = route.patterns.streams[usage]
        if job.on_frames is not None:
            return self._play(job, tape, PlainStream(patterns, *told, job.on_frames))
        buffer = FrameBuffer()
        return buffer.of(self._play(job, tape, PlainStream(patterns, *told, buffer.put)))

    async def _play(self, job: Job, tape: Tape, run: PlainRun) -> Result:
        try:
            result: Result = await self._client.play(tape, run, job.progress)
        except Exception as exc:  # noqa: BLE001 - the boundary to vLLM, as in `_answer`
            self._raise_for(job, exc)
        return result

    def _request(self, route: Route, job: Job, body: dict[str, Any]) -> Any:
        """Parse the body as vLLM's own server would, under our model id and request id."""
        try:
            return route.parse.validate_python(body)
        except ValidationError as exc:
            raise vllm_errors.invalid_body(body, exc.errors(include_url=False, include_input=False)) from None
        except Exception as exc:  # noqa: BLE001 - validators of vLLM's raise errors of its own
            self._raise_for(job, exc)

    async def _answer(self, job: Job, tape: Tape, handling: Coroutine[Any, Any, Any]) -> Any:
        """Return vLLM's answer to one job: a generator of frames, or a whole response."""
        noting = TAPE.set(tape)
        try:
            answer = await (handling if job.stream or tape.plain else _cancellable(handling, job.progress))
        except Exception as exc:  # noqa: BLE001 - the boundary to vLLM: a bad request may raise anything
            self._raise_for(job, exc)
        finally:
            TAPE.reset(noting)
        if isinstance(answer, ErrorResponse):
            self._raise(job, answer.error.code, answer.error.message, answer.error.param)
        return answer

    def _raise_for(self, job: Job, exc: Exception) -> NoReturn:
        if isinstance(exc, VllmEngineDeadError):
            raise EngineDeadError(f"the vLLM engine of model {self._spec.id} has died") from None
        error = create_error_response(exc).error
        if error.code >= 500:  # its text may hold the prompt
            log.error("engine failed", extra={"event": "engine_failed", "request": job.id, "kind": type(exc).__name__})
        self._raise(job, error.code, error.message, error.param)

    def _raise(self, job: Job, status: int, message: str, param: str | None) -> NoReturn:
        """Raise what vLLM reported. Of a dead engine, every request reports something."""
        self._assert_alive()
        raise vllm_errors.refusal(job.endpoint, status, message, param) from None


async def _cancellable(handling: Coroutine[Any, Any, Any], progress: Progress) -> Any:
    """Run a handler to its end, or to our cancellation, at which `progress` is kept.

    vLLM turns a cancellation into an answer of its own. In a task beside ours it may;
    ours keeps the cancellation, and the reason in its message.
    """
    task = asyncio.ensure_future(handling)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        progress.freeze()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _is_stopped(pid: int | None) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False  # it has ended, which vLLM reports
