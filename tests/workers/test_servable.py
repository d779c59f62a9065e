"""What vLLM cannot serve is said before it is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.workers.reference_models import CONFIGS, write_model
from workers.model_folder import read
from workers.servable import refusal

CONFIG = CONFIGS["Qwen2.5-0.5B-Instruct"]


def why(
    tmp_path: Path,
    engine_args: dict[str, Any] | None = None,
    max_model_len: int | None = None,
    *,
    files: dict[str, str] | None = None,
    **changed: Any,
) -> str | None:
    folder = write_model(tmp_path / "m", CONFIG | {"quantization_config": None} | changed)
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    return refusal(read(folder, folder), engine_args or {}, max_model_len)


def test_nothing_speaks_against_a_usual_model(tmp_path: Path) -> None:
    assert why(tmp_path, {"dtype": "float32"}, 32768) is None


@pytest.mark.parametrize("files", [{}, {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["x.X", null]}}'}])
def test_foreign_code_is_run_only_where_the_operator_says_so(tmp_path: Path, files: dict[str, str]) -> None:
    changed: dict[str, Any] = {} if files else {"auto_map": {"AutoModel": "modeling_x.X"}}
    refused = why(tmp_path / "a", files=files, **changed)
    assert refused is not None
    assert "has an auto_map" in refused
    assert "trust_remote_code: true" in refused
    assert why(tmp_path / "b", {"trust_remote_code": True}, files=files, **changed) is None
    assert why(tmp_path / "c", {"trust-remote-code": True}, files=files, **changed) is None
    assert why(tmp_path / "d", {"trust_remote_code": "no"}, files=files, **changed) is not None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "model.gguf"])
def test_only_safetensors_are_loaded(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "m", CONFIG)
    (folder / "model.safetensors").rename(folder / name)
    found = read(folder, folder)
    text = refusal(found, {}, None)
    assert text is not None
    assert f"not safetensors but {name}" in text
    assert refusal(found, {"load_format": "dummy"}, None) is None


def test_weights_that_are_still_to_come_are_waited_for(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG)
    (folder / "model.safetensors").unlink()
    assert refusal(read(folder, folder), {}, None) == "it holds no *.safetensors (yet)"


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("Qwen3ForCausalLM", None),
        ("Qwen2_5_VLForConditionalGeneration", None),
        ("BertModel", None),
        ("Qwen3Model", None),  # made into an embedding model
        ("LlamaForSequenceClassification", "ranks or classifies"),
        ("Qwen2ForRewardModel", "ranks or classifies"),
        ("EagleLlamaForCausalLM", "only guesses ahead"),
        ("QWenLMHeadModel", "0.23.0 was the last that did"),
        ("SomethingNewForCausalLM", "engine_args: {model_impl: transformers}"),
        ("Model", "vLLM 0.32.0 does not have Model"),
        ("", "vLLM 0.32.0 does not have "),
    ],
)
def test_an_architecture_that_cannot_be_served_is_named(
    tmp_path: Path, architecture: str, expected: str | None
) -> None:
    text = why(tmp_path, architectures=[architecture])
    assert text is None if expected is None else text is not None and expected in text


def test_the_transformers_library_s_own_form_is_the_operator_s_choice(tmp_path: Path) -> None:
    assert why(tmp_path, {"model_impl": "transformers"}, architectures=["SomethingNewForCausalLM"]) is None


@pytest.mark.parametrize(
    ("engine_args", "method", "expected"),
    [
        ({}, "awq", None),
        ({}, "compressed-tensors", None),
        ({}, "auto-round", None),
        ({}, "bitsandbytes", "does not have the quantization 'bitsandbytes'"),
        ({"quantization": "fp8"}, "", None),
        ({"quantization": "magic"}, "", "does not have the quantization 'magic'"),
    ],
)
def test_a_quantization_that_vllm_does_not_have_is_named(
    tmp_path: Path, engine_args: dict[str, Any], method: str, expected: str | None
) -> None:
    folder = write_model(tmp_path / "m", CONFIG)
    config = folder / "config.json"
    config.write_text(config.read_text()[:-1] + f', "quantization_config": {{"quant_method": "{method}"}}}}')
    text = refusal(read(folder, folder), engine_args, None)
    assert text is None if expected is None else text is not None and expected in text


def test_more_context_than_a_model_was_made_for_is_refused(tmp_path: Path) -> None:
    text = why(tmp_path / "a", max_model_len=32769)
    assert text == "max_model_len is 32,769, but the model was made for 32,768 tokens"
    overrides = {"hf_overrides": {"max_position_embeddings": 131072}}
    assert why(tmp_path / "b", overrides, 131072) is None


def test_overrides_that_make_no_model_are_refused(tmp_path: Path) -> None:
    assert why(tmp_path, {"hf_overrides": {"architectures": None}}) == "config.json names no architecture"
