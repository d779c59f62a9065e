"""Which parser a model's tool calls and thoughts need."""

from __future__ import annotations

import pytest

from workers import parsers
from workers.parsers import Parsers, choose
from workers.vllm_names import REASONING_PARSERS, TOOL_PARSERS

# What is typical of each template, shortened.
QWEN25 = "{%- if tools %}<tools></tools>{%- endif %}<tool_call>{% if add_generation_prompt %}<|im_start|>assistant\n"
QWEN3 = QWEN25 + "{%- if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>"
QWEN3_THINKING = "{% set content = content.split('</think>') %}" + QWEN25 + "<think>\n"
QWEN3_CODER = "{% if tools %}<tool_call>\n<function=example>{% if add_generation_prompt %}<|im_start|>assistant\n"
LLAMA31 = "{% if tools_in_user_message %}<|start_header_id|>ipython <|python_tag|> {% if add_generation_prompt %}"
LLAMA2 = "{% for message in messages %}[INST]{% endfor %}"
MISTRAL02 = "{{ bos }}{% for message in messages %}[INST]{% endfor %}"
MISTRAL03 = "[AVAILABLE_TOOLS] {{ tools }} [TOOL_CALLS]"
R1_DISTILL = (
    "{% if message['tool_calls'] %}<｜tool▁calls▁begin｜>```json{% endif %}"
    "{% set content = content.split('</think>') %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\\n"
)
HERMES_LLAMA = "{% if tools %}<tool_call>{% endif %}{% if add_generation_prompt %}"
OFF = {"enable_thinking": False}


@pytest.mark.parametrize(
    ("model_type", "template", "expected"),
    [
        ("qwen2", QWEN25, Parsers("hermes")),
        ("qwen2", QWEN3_THINKING, Parsers("hermes", "deepseek_r1")),  # QwQ
        ("qwen3", QWEN3, Parsers("hermes", "qwen3", OFF)),
        ("qwen3_moe", QWEN3, Parsers("hermes", "qwen3", OFF)),
        ("qwen3", QWEN25, Parsers("hermes")),  # Instruct-2507 never thinks
        ("qwen3", QWEN3_THINKING, Parsers("hermes", "qwen3")),  # Thinking-2507 always does
        ("qwen3_moe", QWEN3_CODER, Parsers("qwen3_xml")),
        ("qwen3", None, Parsers("hermes", "qwen3", OFF)),
        ("llama", LLAMA31, Parsers("llama3_json")),
        ("llama", LLAMA2, Parsers()),
        ("llama", HERMES_LLAMA, Parsers("hermes")),
        ("llama", "{% if tools %}something else", Parsers()),
        ("llama", None, Parsers("llama3_json")),
        ("llama4_text", None, Parsers("llama4_pythonic")),
        ("mistral", MISTRAL02, Parsers()),
        ("mistral", MISTRAL03, Parsers("mistral")),
        ("mistral", MISTRAL03 + "[THINK]", Parsers("mistral", "mistral")),
        ("mistral", None, Parsers("mistral")),
        ("qwen2", R1_DISTILL, Parsers(None, "deepseek_r1")),
        ("llama", R1_DISTILL, Parsers(None, "deepseek_r1")),
        ("deepseek_v3", R1_DISTILL, Parsers("deepseek_v3", "deepseek_r1")),
        (
            "deepseek_v3",
            "{% if thinking %}</think>{% endif %}<｜Assistant｜><｜tool▁call▁begin｜>",
            Parsers("deepseek_v31", "deepseek_v3"),
        ),
        ("gpt_oss", "<|channel|> tools", Parsers("openai", "openai_gptoss")),
        ("glm4_moe", "tools <arg_key> enable_thinking", Parsers("glm45", "glm45")),
        ("opt", None, Parsers()),
        ("", None, Parsers()),
    ],
)
def test_type_and_template_say_how_a_model_writes(model_type: str, template: str | None, expected: Parsers) -> None:
    assert choose(model_type, template) == expected


def test_vllm_has_every_parser_that_may_be_chosen() -> None:
    assert {*parsers._TOOLS.values(), *(name for _, name in parsers._TOOL_MARKS)} <= TOOL_PARSERS
    assert {"hermes", "deepseek_v31"} <= TOOL_PARSERS
    assert {
        *parsers._REASONING.values(),
        *parsers._ALWAYS,
        "deepseek_r1",
        "deepseek_v3",
        "mistral",
    } <= REASONING_PARSERS
