"""How vLLM comes up in a worker: its arguments, the engine, its serving layer, its log.

Imported by `workers.engine.vllm`, which sets what vLLM reads from the environment first.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import vllm.v1.engine.utils
from pydantic import TypeAdapter
from starlette.datastructures import State
from starlette.requests import Request
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from workers.devices import DeviceKind
from workers.engine import seed, vllm_args, vllm_samples
from workers.engine.vllm_recipes import Recipes
from workers.engine.vllm_rendering import render_short_prompts_here
from workers.engine.vllm_samples import Patterns
from workers.engine.vllm_shortcut import give_plain_answers_away
from workers.registry import ModelSpec

log = logging.getLogger(__name__)

_HANDLE_REQUESTS = ("entrypoints", "renderers", "parser", "tool_parsers", "reasoning", "tokenizers", "multimodal")


class EngineLoadError(Exception):
    """vLLM could not load the model. The text names the model and vLLM's reason."""


@dataclass(frozen=True, slots=True)
class Route:
    """How one endpoint is answered."""

    parse: TypeAdapter
    handler: Callable[[Any, Request], Coroutine[Any, Any, Any]]
    id_prefix: str
    """What vLLM writes before a request's id in an answer."""
    patterns: Patterns | None = None
    """What plain answers look like, where they are known."""
    recipes: Recipes | None = None
    """How plain questions are prepared."""


def arguments(spec: ModelSpec) -> Any:
    """Return vLLM's own arguments for a model. Raises EngineArgumentError."""
    parser = make_arg_parser(FlexibleArgumentParser())

    def refuse(message: str) -> NoReturn:
        raise vllm_args.EngineArgumentError(f"model {spec.id}: engine_args: {message}")

    parser.error = refuse
    options = {option for action in parser._actions for option in action.option_strings}
    cpu = current_platform.is_cpu()
    total_mib = None if cpu else current_platform.get_device_total_memory() >> 20
    wanted = vllm_args.engine_args(spec, cpu=cpu, device_total_mib=total_mib, sleeps=can_sleep())
    return parser.parse_args(vllm_args.command_line(spec, wanted, options))


def device_kind() -> DeviceKind:
    if current_platform.is_cpu():
        return DeviceKind.CPU
    return DeviceKind.ROCM if current_platform.is_rocm() else DeviceKind.CUDA


def can_sleep() -> bool:
    """Say whether vLLM can put an engine to sleep here. Not tried by anybody on XPU, which it calls able as well."""
    return bool(
        current_platform.is_cuda_alike()
        and current_platform.is_sleep_mode_available()
        and current_platform.is_cumem_allocator_available()
    )


def load(args: Any) -> Any:
    """Start the engine's processes; returns when the model is loaded."""
    engine_args = AsyncEngineArgs.from_cli_args(args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    if (forked := seed.multiprocessing_context()) is not None:
        # vLLM has a choice of fork, which is not safe here, and spawn, which imports everything again.
        vllm.v1.engine.utils.get_mp_context = lambda: forked
    return AsyncLLM.from_vllm_config(config, usage_context=UsageContext.OPENAI_API_SERVER)


async def routes(client: Any, args: Any) -> dict[str, Route]:
    """Return the routes of what this model can do; `client` is what the serving layer takes for the engine."""
    tasks = await client.get_supported_tasks()
    state = State()
    await init_app_state(client, state, args, tasks)
    found: dict[str, Route] = {}
    if "generate" in tasks:
        chat, completion = state.openai_serving_chat, state.openai_serving_completion
        model = args.served_model_name[0]
        patterns = await _patterns(vllm_samples.chat_patterns(chat, model))
        parse = TypeAdapter(ChatCompletionRequest)
        found["chat"] = Route(parse, chat.create_chat_completion, "chatcmpl-", patterns, Recipes(chat, client, tasks))
        patterns = await _patterns(vllm_samples.completion_patterns(completion, model))
        parse = TypeAdapter(CompletionRequest)
        found["completion"] = Route(
            parse, completion.create_completion, "cmpl-", patterns, Recipes(completion, client, tasks)
        )
        give_plain_answers_away(chat, completion)
        render_short_prompts_here(chat.renderer)
    if getattr(state, "serving_embedding", None) is not None:
        found["embedding"] = Route(TypeAdapter(EmbeddingRequest), state.serving_embedding, "embd-")
    return found


async def _patterns(sampling: Coroutine[Any, Any, Patterns | None]) -> Patterns | None:
    try:
        return await sampling
    except Exception as error:  # noqa: BLE001 - a release of vLLM that writes otherwise; it goes on writing itself
        log.warning("plain answers are left to vLLM", extra={"event": "no_patterns", "reason": repr(error)})
        return None


def count_no_tokens(llm: Any, args: Any) -> None:
    """Leave out vLLM's times of every token, which take as long as its text; the scheduler's own numbers still come.

    To be called before the first request. Traces, metrics of single requests and adapters are made of them.
    """
    processor = llm.output_processor
    if not (processor.tracing_enabled or args.enable_per_request_metrics or llm.vllm_config.lora_config):
        llm.log_stats = processor.log_stats = False


def log_like_ours() -> None:
    """Send vLLM's warnings and worse where our own records go, except for what may hold a prompt."""
    logger = logging.getLogger("vllm")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    logging.setLogRecordFactory(logging.LogRecord)  # vLLM's adds a field to every record, ours included
    # These report the failure of a request, with its text; what became of it is told by our refusal.
    for name in _HANDLE_REQUESTS:
        logging.getLogger(f"vllm.{name}").setLevel(logging.CRITICAL + 1)


def engine_processes() -> list[BaseProcess]:
    """Return the processes of vLLM's engine core that this one has started."""
    return [process for process in multiprocessing.active_children() if process.name.startswith("EngineCore")]


def kill_engine() -> None:
    for process in engine_processes():
        process.kill()
