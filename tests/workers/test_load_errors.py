"""Why a load failed, from the ends of logs as vLLM, torch and Celery write them."""

from __future__ import annotations

import pytest

from workers.engine.load_errors import explain

MEMORY = "there is not enough memory for it"
WEIGHTS = "its weights are missing or broken"


@pytest.mark.parametrize(
    ("line", "reason", "permanent"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB.", MEMORY, False),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", MEMORY, False),
        (
            "ValueError: No available memory for the cache blocks. Try increasing ...",
            MEMORY,
            False,
        ),
        ("ValueError: Free memory on device (3.1/44.4 GiB) on startup is less than desired", MEMORY, False),
        ("safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", WEIGHTS, True),
        ("RuntimeError: Cannot find any model weights with `/models/m`", WEIGHTS, True),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/m/model-1.safetensors'", WEIGHTS, True),
        ("OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/models/gone'.", WEIGHTS, True),
        (
            "ValueError: Model architectures ['NoSuchForCausalLM'] are not supported for now.",
            "the engine cannot serve its architecture",
            True,
        ),
        ("ModuleNotFoundError: No module named 'vllm'", "its engine is not installed there", False),
    ],
)
def test_the_end_of_a_log_says_why(line: str, reason: str, permanent: bool) -> None:
    error = explain(1, ["Traceback (most recent call last):", line, "the parent only knows that its child has ended"])
    assert (error.reason, error.permanent) == (reason, permanent)


@pytest.mark.parametrize("code", [-9, 137])
def test_a_kill_without_a_word_is_most_often_the_kernels_for_want_of_memory(code: int) -> None:
    error = explain(code, ["loading weights"])
    assert "killed" in error.reason
    assert not error.permanent


@pytest.mark.parametrize("code", [1, 70, 256, None])
def test_of_any_other_end_nothing_is_made_up(code: int | None) -> None:
    error = explain(code, ["something about /srv/secret"])
    assert (error.reason, error.permanent) == ("its engine did not start", False)
