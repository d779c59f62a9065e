"""What a replica with a vLLM engine imports, before it is known which (`workers.launcher.zygote_process`).

None of it may touch a device: what CUDA has once been initialised in cannot be forked.
"""

from __future__ import annotations

import gc
import importlib
import os
import tempfile
import warnings
from contextlib import suppress

from workers.engine import ENGINES, seed

# What vLLM imports while a model loads. Another release may not have one of them, and then a fork imports
# what that one has instead.
_SERVING = (
    "vllm.entrypoints.anthropic.serving",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.generate.generative_scoring.serving",
    "vllm.entrypoints.generate.structured_decisions.serving",
    "vllm.entrypoints.openai.chat_completion.batch_serving",
    "vllm.entrypoints.openai.responses.serving",
    "vllm.entrypoints.scale_out.factories",
    "vllm.model_executor.models.config",
    "vllm.renderers.hf",
    "vllm.tool_parsers.hermes_tool_parser",
    "vllm.v1.worker.ubatching",
    "vllm.v1.worker.workspace",
    "pydantic.v1",
)
# And in an engine's process. Not where there is a device that one of them might touch: nobody says they do not.
_CPU_ENGINE = (
    "vllm.distributed.elastic_ep.elastic_execute",
    "vllm.model_executor.layers.quantization.compressed_tensors.utils",
    "vllm.model_executor.layers.quantization.online",
    "vllm.model_executor.model_loader.default_loader",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen3",
    "vllm.model_executor.warmup.kernel_warmup",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.sample.sampler",
    "vllm.v1.worker.cpu_worker",
)

importlib.import_module(ENGINES["vllm"].partition(":")[0])
platform = importlib.import_module("vllm.platforms").current_platform
for name in _SERVING + (_CPU_ENGINE if platform.is_cpu() else ()):
    with suppress(ImportError):
        importlib.import_module(name)
numpy, torch = importlib.import_module("numpy"), importlib.import_module("torch")
hub = importlib.import_module("huggingface_hub.constants")


def forked() -> None:
    """Have a process ready for the engine, before this one has a thread."""
    _start_random_numbers()
    seed.plant(_settle)


def _settle() -> None:
    """In the engine's process: follow those variables that libraries read while they are imported."""
    _start_random_numbers()
    tempfile.tempdir = None
    warnings.simplefilter("ignore", FutureWarning)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        torch.set_num_threads(int(threads))
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        torch.compiler.set_stance("force_eager")
    # At its end vLLM has what was imported looked through twice for what could be freed, which takes a second
    # and makes copies of it all; and then the process ends.
    gc.__dict__["unfreeze"] = lambda: None
    hub.__dict__["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE") == "1"


def _start_random_numbers() -> None:
    """Or all forks would draw the same; Python's own sees to itself."""
    numpy.random.seed()
    torch.default_generator.seed()
