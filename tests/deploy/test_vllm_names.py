"""The names that we wrote down are those of the vLLM that is installed."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from deploy import vllm_names
from workers import vllm_names as written

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(vllm_names.vllm_folder() is None, reason="vLLM is not installed here")
def test_the_names_are_those_of_the_vllm_that_is_here() -> None:
    assert vllm_names.TARGET.read_text() == vllm_names.module(), "run `python -m deploy.vllm_names`"


def test_the_names_are_those_of_the_vllm_that_we_install() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    assert f"vllm =={written.VLLM}" in config["options.extras_require"]["gpu"]


def test_the_tables_hold_what_they_say() -> None:
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen2_5_VLForConditionalGeneration"} <= written.ANSWERING
    assert "BertModel" in written.EMBEDDING
    assert "EagleLlamaForCausalLM" in written.DRAFTING
    assert written.DROPPED["QWenLMHeadModel"] == "0.23.0"
    assert {"hermes", "llama3_json", "mistral"} <= written.TOOL_PARSERS
    assert {"qwen3", "deepseek_r1"} <= written.REASONING_PARSERS
    assert {"awq", "gptq", "fp8", "compressed-tensors"} <= written.QUANTIZATIONS
