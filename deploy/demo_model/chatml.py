"""The chat format: what the model reads and writes, in one place.

`CHAT_TEMPLATE` is what vLLM renders requests with; `render` writes the same text for the trainer, cut into pieces of
which only some are taught. A test holds the two together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TAGS = ("<tool_call>", "</tool_call>", "<tools>", "</tools>", "<tool_response>", "</tool_response>")

# Of a tool it shows the name and the arguments to fill (the required ones, else all): a description in any words then
# reads the same to so small a model.
CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content is not none and content is defined -%}
{%- for part in content -%}{%- if part is string -%}{{- part -}}\
{%- elif part.text is defined -%}{{- part.text -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role in ('system', 'developer') -%}
{%- set ns.system = ns.system ~ ('\\n' if ns.system else '') ~ text(message.content) -%}
{%- endif -%}
{%- endfor -%}
{%- if ns.system or tools -%}
{{- '<|im_start|>system\\n' ~ ns.system -}}
{%- if tools -%}
{{- ('\\n' if ns.system else '') ~ '<tools>' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{%- set schema = function.parameters if function.parameters is mapping else {} -%}
{%- set properties = schema.properties if schema.properties is mapping else {} -%}
{%- set names = schema.required if schema.required else (properties.keys() | list) -%}
{{- '\\n' ~ function.name ~ '(' ~ (names | join(', ')) ~ ')' -}}
{%- endfor -%}
{{- '\\n</tools>' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{- '<|im_start|>user\\n' ~ text(message.content) ~ '<|im_end|>\\n' -}}
{%- elif message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' ~ text(message.content) -}}
{%- for call in (message.tool_calls or []) -%}
{%- set function = call.function if call.function is defined else call -%}
{{- '\\n' if message.content or not loop.first else '' -}}
{{- '<tool_call>\\n{"name": "' ~ function.name ~ '", "arguments": ' -}}
{{- function.arguments if function.arguments is string else (function.arguments | tojson) -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- elif message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' ~ text(message.content) ~ '\\n</tool_response><|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; the loss counts only the taught ones."""

    text: str
    taught: bool


@dataclass(frozen=True, slots=True)
class Tool:
    """What the model sees of a tool: its name and the arguments to fill."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn of the user and the answer of the model.

    `given` is the start of the answer that is not taught, since a grammar or the client forces it.
    """

    user: str
    answer: str
    given: str = ""


def tool_call(name: str, arguments: Mapping[str, Any]) -> str:
    """The Hermes form, which vLLM's parser turns into `tool_calls`."""
    filled = json.dumps(dict(arguments), ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {filled}}}\n</tool_call>'


def tool_response(content: str) -> str:
    """A tool's result, as the text of a user turn."""
    return f"<tool_response>\n{content}\n</tool_response>"


def prompt(user: str, system: str = "", tools: Sequence[Tool] = ()) -> str:
    """The text that asks for the answer to one question."""
    return _preamble(system, tools) + _user(user)


def render(exchanges: Sequence[Exchange], system: str = "", tools: Sequence[Tool] = ()) -> list[Piece]:
    """A whole conversation; its answers, each with its end mark, are what is taught."""
    pieces = [Piece(_preamble(system, tools), taught=False)]
    for exchange in exchanges:
        pieces.append(Piece(_user(exchange.user) + exchange.given, taught=False))
        pieces.append(Piece(exchange.answer + END, taught=True))
        pieces.append(Piece("\n", taught=False))
    return pieces


def _preamble(system: str, tools: Sequence[Tool]) -> str:
    if not system and not tools:
        return ""
    lines = [system] if system else []
    if tools:
        lines += ["<tools>", *(f"{tool.name}({', '.join(tool.arguments)})" for tool in tools), "</tools>"]
    return f"{START}system\n" + "\n".join(lines) + f"{END}\n"


def _user(text: str) -> str:
    return f"{START}user\n{text}{END}\n{START}assistant\n"
