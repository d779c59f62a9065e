"""How a model writes tool calls and thoughts: which of vLLM's parsers understands it.

Chosen by the model's type, and by its chat template where there is one: models of one
type were taught different ways, and a template shows which. A parser that does not fit is
worse than none, since it takes a model's plain words for something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# By the start of the model's type; of several that match, the longest counts.
_TOOLS = {
    "apertus": "apertus",
    "cohere": "cohere_command3",
    "deepseek_v3": "deepseek_v3",
    "deepseek_v32": "deepseek_v32",
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v41",
    "dots": "dots",
    "ernie4_5": "ernie45",
    "gemma4": "gemma4",
    "glm4_moe": "glm45",
    "gpt_oss": "openai",
    "granite": "granite",
    "granitemoehybrid": "granite4",
    "hunyuan": "hunyuan_a13b",
    "internlm": "internlm",
    "jamba": "jamba",
    "kimi": "kimi_k2",
    "lfm2": "lfm2",
    "llama": "llama3_json",
    "llama4": "llama4_pythonic",
    "longcat": "longcat",
    "mimo": "mimo",
    "minimax_m2": "minimax_m2",
    "ministral": "mistral",
    "mistral": "mistral",
    "mixtral": "mistral",
    "olmo3": "olmo3",
    "phi3": "phi4_mini_json",
    "pixtral": "mistral",
    "plamo3": "plamo3",
    "qwen": "hermes",
    "qwen3_5": "qwen3_xml",
    "qwen3_next": "hermes",
    "seed_oss": "seed_oss",
    "step3": "step3",
    "step3p5": "step3p5",
}
# What a template writes around a tool call goes before the type: Hermes and others were made from Llama and Mistral.
_TOOL_MARKS = (
    ("<function=", "qwen3_xml"),
    ("[TOOL_CALLS]", "mistral"),
    ("<arg_key>", "glm45"),
    ("<|python_tag|>", "llama3_json"),
)
_HERMES_MARK = "<tool_call>"
_HERMES_TYPES = ("llama", "mistral", "qwen", "smollm3", "gemma")
# For models that always think, or think unless they are told not to.
_REASONING = {
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v41",
    "ernie4_5": "ernie45",
    "gemma4": "gemma4",
    "glm4_moe": "glm45",
    "gpt_oss": "openai_gptoss",
    "hunyuan": "hunyuan_a13b",
    "kimi": "kimi_k2",
    "mimo": "mimo",
    "minimax_m2": "minimax_m2",
    "nemotron_h": "nemotron_v3",
    "olmo3": "olmo3",
    "plamo3": "plamo3",
    "qwen3": "qwen3",
    "seed_oss": "seed_oss",
    "step3": "step3",
    "step3p5": "step3p5",
}
# These need no sign in the template: every model of the type thinks.
_ALWAYS = frozenset({"openai_gptoss", "seed_oss", "step3", "minimax_m2"})
_SWITCH = "enable_thinking"
_PROMPT = "add_generation_prompt"
_DEEPSEEK = "<｜Assistant｜>"


@dataclass(frozen=True, slots=True)
class Parsers:
    """vLLM's names; None for a model that needs none."""

    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)


def choose(model_type: str, template: str | None) -> Parsers:
    """Choose for a model of `model_type` with this chat template; None when no template is known."""
    reasoning = _reasoning(model_type, template)
    # Qwen's small models think for a minute about a greeting, so they are asked to only on demand.
    silent = reasoning == "qwen3" and (template is None or _SWITCH in template)
    return Parsers(_tools(model_type, template), reasoning, {_SWITCH: False} if silent else {})


def _tools(model_type: str, template: str | None) -> str | None:
    """Return the parser for tool calls.

    1. Without a template, the type decides.
    2. A template that never mentions tools would not show them to the model.
    3. What the template writes around a call decides, where it is typical of one parser.
    4. Else the type does.
    """
    by_type = _longest(_TOOLS, model_type)
    if template is None:
        return by_type
    if "tool" not in template:
        return None
    marked = next((parser for mark, parser in _TOOL_MARKS if mark in template), None)
    if marked is None and _HERMES_MARK in template and model_type.startswith(_HERMES_TYPES):
        marked = "hermes"
    return marked or _of_type(by_type, model_type, template)


def _of_type(by_type: str | None, model_type: str, template: str) -> str | None:
    if _DEEPSEEK in template:
        return _deepseek_tools(by_type, model_type, template)
    if by_type == "llama3_json" and "ipython" not in template:
        return None  # something else made from Llama, which writes calls in a way of its own
    return by_type


def _deepseek_tools(by_type: str | None, model_type: str, template: str) -> str | None:
    if not model_type.startswith("deepseek"):
        return None  # distilled: the tokens that mark a call are not in its vocabulary
    return "deepseek_v31" if by_type == "deepseek_v3" and "```json" not in template else by_type


def _reasoning(model_type: str, template: str | None) -> str | None:
    """Return the parser for thoughts.

    1. DeepSeek R1, whatever it was distilled into, is known by its template.
    2. Types whose every model thinks need no sign, and without a template Qwen 3 is taken for one.
    3. Of other types, those think whose template has a switch for it or opens a thought for the answer.
    """
    by_type = _longest(_REASONING, model_type)
    if template is None:
        return by_type if by_type in _ALWAYS | {"qwen3"} else None
    opens = "<think>" in template.rpartition(_PROMPT)[2]
    if _DEEPSEEK in template and "</think>" in template:
        return "deepseek_v3" if "thinking" in template and model_type == "deepseek_v3" else "deepseek_r1"
    if "[THINK]" in template and _longest(_TOOLS, model_type) == "mistral":
        return "mistral"
    if by_type is None:
        return "deepseek_r1" if opens and _SWITCH not in template else None
    return by_type if by_type in _ALWAYS or opens or _SWITCH in template else None


def _longest(table: Mapping[str, str], model_type: str) -> str | None:
    found = max((start for start in table if model_type.startswith(start)), key=len, default=None)
    return None if found is None else table[found]
