"""A model's entry → vLLM's environment and arguments, without vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.workers.reference_models import CONFIGS, write_model
from workers.devices import DeviceKind
from workers.engine.vllm_args import (
    EngineArgumentError,
    command_line,
    cpu_environment,
    engine_args,
    is_folder,
    scratch_environment,
)
from workers.estimate.needs import CPU_RUNTIME_MIB, estimate
from workers.model_folder import read
from workers.registry import ModelSpec

MIB = 1 << 20


def spec(**fields: Any) -> ModelSpec:
    return ModelSpec(**{"id": "m", "path": "/models/m"} | fields)


def args(*, cpu: bool = False, environ: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    return engine_args(spec(**fields), cpu=cpu, environ=environ or {})


def test_the_model_answers_under_its_own_id() -> None:
    made = args()
    assert (made["model"], made["served_model_name"]) == ("/models/m", ["m"])


def test_a_model_without_a_path_is_a_repository_of_its_name() -> None:
    assert args(path=None)["model"] == "m"


def test_only_safetensors_are_loaded_and_no_media_are_fetched_unless_asked_for() -> None:
    assert (args()["load_format"], args()["language_model_only"]) == ("safetensors", True)
    assert "language_model_only" not in args(engine_args={"limit_mm_per_prompt": {"image": 1}})
    assert args(engine_args={"load_format": "gguf"})["load_format"] == "gguf"


def test_parsers_and_template_arguments_have_keys_of_their_own() -> None:
    made = args(tool_call_parser="hermes", reasoning_parser="qwen3", chat_template_kwargs={"enable_thinking": False})
    assert made["enable_auto_tool_choice"] is True
    assert (made["tool_call_parser"], made["reasoning_parser"]) == ("hermes", "qwen3")
    assert made["default_chat_template_kwargs"] == {"enable_thinking": False}
    assert not {"enable_auto_tool_choice", "reasoning_parser", "default_chat_template_kwargs"} & args().keys()


@pytest.mark.parametrize("key", ["model", "served_model_name", "tool_call_parser", "enable_log_requests"])
def test_what_must_not_be_set_is_refused_by_name(key: str) -> None:
    with pytest.raises(EngineArgumentError, match=f"model m: engine_args.{key} "):
        args(engine_args={key: "x"})


def test_a_gpu_keeps_the_defaults_of_vllm() -> None:
    assert not {"max_num_seqs", "enforce_eager", "kv_cache_memory_bytes"} & args().keys()


def test_a_gpu_engine_takes_the_memory_it_is_given_and_no_more() -> None:
    made = engine_args(spec(memory_mib=24600), cpu=False, environ={}, device_total_mib=48000)
    assert made["gpu_memory_utilization"] == 0.5  # 600 of it are the driver's
    given = {"kv_cache_memory_bytes": 1 << 30}
    made = engine_args(spec(memory_mib=24600, engine_args=given), cpu=False, environ={}, device_total_mib=48000)
    assert "gpu_memory_utilization" not in made
    assert "gpu_memory_utilization" not in engine_args(spec(), cpu=False, environ={}, device_total_mib=48000)


def test_a_cpu_engine_takes_little_memory_unless_told_otherwise() -> None:
    assert args(cpu=True)["kv_cache_memory_bytes"] == 1024 * MIB
    assert args(cpu=True, memory_mib=1500)["kv_cache_memory_bytes"] == (1500 - CPU_RUNTIME_MIB) * MIB
    assert args(cpu=True, memory_mib=100)["kv_cache_memory_bytes"] == 64 * MIB
    assert "kv_cache_memory_bytes" not in args(cpu=True, environ={"VLLM_CPU_KVCACHE_SPACE": "4"})
    assert "kv_cache_memory_bytes" not in args(cpu=True, engine_args={"gpu_memory_utilization": 0.5})


def test_the_kv_cache_of_a_cpu_engine_is_as_large_as_was_estimated(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIGS["Qwen2.5-0.5B-Instruct"])
    assert is_folder(spec(path=str(folder)))
    found = read(folder, folder)
    settings: list[dict[str, Any]] = [{}, {"memory_mib": 4000}, {"max_model_len": 512}]
    for changed in settings:
        need = estimate(spec(path=str(folder), **changed), found, DeviceKind.CPU)
        made = args(cpu=True, path=str(folder), **changed)
        assert made["kv_cache_memory_bytes"] == (need.kv_mib or 0) * MIB


def test_a_folder_that_cannot_be_read_is_left_to_vllm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert args(cpu=True, path=str(tmp_path))["kv_cache_memory_bytes"] == 1024 * MIB


def test_what_the_entry_says_wins() -> None:
    made = args(cpu=True, max_model_len=100, engine_args={"max_num_seqs": 8, "max_model_len": 50})
    assert (made["max_num_seqs"], made["max_model_len"], made["block_size"]) == (8, 50, 128)


def test_a_small_machine_computes_in_the_engine_process() -> None:
    assert cpu_environment(spec(), cpus=2, environ={}) == {
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": "1",
    }
    assert cpu_environment(spec(), cpus=8, environ={"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("engine_args", "cpus", "environ"),
    [
        ({}, 64, {}),
        ({"distributed_executor_backend": "mp"}, 2, {}),
        ({"tensor_parallel_size": 2}, 2, {}),
        ({}, 2, {"VLLM_CPU_OMP_THREADS_BIND": "0-1"}),
        ({}, 2, {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}),
    ],
)
def test_a_large_machine_or_a_choice_keeps_the_processes_of_vllm(
    engine_args: dict[str, Any], cpus: int, environ: dict[str, str]
) -> None:
    assert cpu_environment(spec(engine_args=engine_args), cpus=cpus, environ=environ) == {"TORCHDYNAMO_DISABLE": "1"}


def test_a_model_that_is_to_be_compiled_is() -> None:
    assert "TORCHDYNAMO_DISABLE" not in cpu_environment(spec(engine_args={"enforce_eager": False}), cpus=64, environ={})


def test_temporary_files_go_to_the_folder_and_compiled_code_stays() -> None:
    made = scratch_environment("/tmp/x", usual="/tmp", environ={})
    assert made["TMPDIR"] == made["VLLM_RPC_BASE_PATH"] == "/tmp/x"
    assert made["TORCHINDUCTOR_CACHE_DIR"].startswith("/tmp/torchinductor_")
    assert scratch_environment("/tmp/x", usual="/tmp", environ={"TORCHINDUCTOR_CACHE_DIR": "/c"})[
        "TORCHINDUCTOR_CACHE_DIR"
    ] == ("/c")


def test_arguments_are_spelled_as_options() -> None:
    options = {"--model", "--enforce-eager", "--no-enforce-eager", "--flag", "--names", "--config-of", "--seed"}
    given = {"model": "-x", "enforce_eager": False, "flag": False, "names": ["a", "b"], "config_of": {"k": [1]}}
    assert command_line(spec(), given | {"seed": None}, options) == [
        "--model=-x",
        "--no-enforce-eager",
        "--names",
        "a",
        "b",
        "--config-of",
        '{"k": [1]}',
    ]
    assert command_line(spec(), {"enforce_eager": True}, options) == ["--enforce-eager"]


def test_an_argument_that_vllm_does_not_have_is_named() -> None:
    with pytest.raises(EngineArgumentError, match="model m: vLLM has no engine argument 'max_length'"):
        command_line(spec(), {"max_length": 3}, {"--max-model-len"})


def test_an_engine_that_can_sleep_is_started_so_that_it_can_unless_its_entry_says_otherwise() -> None:
    assert engine_args(spec(), cpu=False, environ={}, sleeps=True)["enable_sleep_mode"] is True
    assert "enable_sleep_mode" not in args()
    never = spec(engine_args={"enable_sleep_mode": False})
    assert engine_args(never, cpu=False, environ={}, sleeps=True)["enable_sleep_mode"] is False
