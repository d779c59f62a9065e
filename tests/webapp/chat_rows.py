"""Chat bodies, good and bad: the rows X3, X4, X10 to X15 of the input matrix."""

from __future__ import annotations

from typing import Any

from tasks.openai.schemas import MAX_CHOICES

USER = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}


def tool(name: object = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def schema_format(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


# Twenty definitions, each twice the one before: two to the twentieth once written out.
LAUGHS = {
    "$ref": "#/$defs/d19",
    "$defs": {"d0": {"type": "string"}}
    | {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i - 1}"}, {"$ref": f"#/$defs/d{i - 1}"}]} for i in range(1, 20)},
}

SCHEMA = "response_format.json_schema.schema"
PART = "messages[0].content[0]"

BAD_CHATS: list[tuple[str, dict[str, Any], str, str]] = [
    # X3: numbers and kinds
    ("a word for a number", {"temperature": "hot"}, "invalid_request", "temperature"),
    ("a number as text", {"temperature": "1"}, "invalid_request", "temperature"),
    ("a flag for a number", {"temperature": True}, "invalid_request", "temperature"),
    ("a flag for a whole number", {"max_tokens": True}, "invalid_request", "max_tokens"),
    ("a temperature too high", {"temperature": 2.01}, "invalid_request", "temperature"),
    ("no probability at all", {"top_p": 0}, "invalid_request", "top_p"),
    ("negative max_tokens", {"max_tokens": -1}, "invalid_request", "max_tokens"),
    ("no tokens", {"max_tokens": 0}, "invalid_request", "max_tokens"),
    ("huge max_tokens", {"max_tokens": 10**12}, "invalid_request", "max_tokens"),
    ("half a token", {"max_completion_tokens": 1.5}, "invalid_request", "max_completion_tokens"),
    ("no choice", {"n": 0}, "invalid_request", "n"),
    ("too many choices", {"n": MAX_CHOICES + 1}, "invalid_request", "n"),
    ("n beyond vLLM's own limit", {"n": 16385}, "invalid_request", "n"),
    ("too many logprobs", {"logprobs": True, "top_logprobs": 10**6}, "invalid_request", "top_logprobs"),
    ("top_logprobs alone", {"top_logprobs": 3}, "invalid_request", "top_logprobs"),
    ("a number for logprobs", {"logprobs": 1}, "invalid_request", "logprobs"),
    ("a seed beyond 64 bits", {"seed": 2**63}, "invalid_request", "seed"),
    ("a seed far beyond 64 bits", {"seed": 10**100}, "invalid_request", "seed"),
    ("too many stops", {"stop": ["x"] * 100_000}, "invalid_request", "stop"),
    ("an empty stop", {"stop": ["a", ""]}, "invalid_request", "stop[1]"),
    ("a token id beyond any vocabulary", {"logit_bias": {"1000000000": 1}}, "invalid_request", "logit_bias"),
    ("a word for a token id", {"logit_bias": {"foo": 1}}, "invalid_request", "logit_bias"),
    ("a bias out of range", {"logit_bias": {"7": 101}}, "invalid_request", "logit_bias"),
    ("min over max", {"min_tokens": 9, "max_tokens": 8}, "invalid_request", "min_tokens"),
    ("stop ids that are flags", {"stop_token_ids": [True]}, "invalid_request", "stop_token_ids"),
    # X10: only text
    (
        "an image",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254"}}]}
            ]
        },
        "unsupported_parameter",
        PART + ".type",
    ),
    (
        "a file",
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
        "unsupported_parameter",
        PART + ".type",
    ),
    (
        "an image without a type",
        {"messages": [{"role": "user", "content": [{"image_url": {"url": "file:///etc/passwd"}}]}]},
        "invalid_request",
        "messages[0].content[0]",
    ),
    (
        "an image behind a text",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "", "image_url": {"url": "x"}}]}]},
        "unknown_parameter",
        "messages[0].content[0].image_url",
    ),
    ("audio wanted", {"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
    ("media options", {"mm_processor_kwargs": {}}, "unsupported_parameter", "mm_processor_kwargs"),
    # X11: templates and unknown fields
    ("a chat template", {"chat_template": "{{ 1 }}"}, "unsupported_parameter", "chat_template"),
    ("template arguments", {"chat_template_kwargs": {"tokenize": True}}, "invalid_request", "chat_template_kwargs"),
    (
        "odd template arguments",
        {"chat_template_kwargs": {"enable_thinking": "yes"}},
        "invalid_request",
        "chat_template_kwargs",
    ),
    ("an odd flag", {"add_generation_prompt": "yes"}, "invalid_request", "add_generation_prompt"),
    ("an unknown field", {"wibble": 1}, "unknown_parameter", "wibble"),
    ("an unknown field that is null", {"wibble": None}, "unknown_parameter", "wibble"),
    ("an unknown field in a message", {"messages": [USER | {"wibble": 1}]}, "unknown_parameter", "messages[0].wibble"),
    ("the engine's transfer", {"kv_transfer_params": {"x": 1}}, "unsupported_parameter", "kv_transfer_params"),
    ("the engine's extras", {"vllm_xargs": {"x": 1}}, "unsupported_parameter", "vllm_xargs"),
    ("a priority of one's own", {"priority": -1}, "unsupported_parameter", "priority"),
    ("false for the priority 0", {"priority": False}, "unsupported_parameter", "priority"),
    ("an id of one's own", {"request_id": "x"}, "unsupported_parameter", "request_id"),
    ("beam search", {"use_beam_search": True}, "unsupported_parameter", "use_beam_search"),
    ("legacy functions", {"functions": [{}]}, "unsupported_parameter", "functions"),
    ("removed guided decoding", {"guided_json": {}}, "unsupported_parameter", "guided_json"),
    # X12: schemas, patterns, grammars
    ("a kind that is a number", {"response_format": schema_format({"type": 123})}, "invalid_request", SCHEMA),
    (
        "a kind that is none",
        {"tools": [tool(parameters={"type": "strange"})]},
        "invalid_request",
        "tools[0].function.parameters",
    ),
    (
        "a broken pattern",
        {"response_format": schema_format({"type": "string", "pattern": "("})},
        "invalid_request",
        SCHEMA + ".pattern",
    ),
    (
        "a pattern that is a number",
        {"tools": [tool(parameters={"pattern": 1})]},
        "invalid_request",
        "tools[0].function.parameters.pattern",
    ),
    (
        "a pattern in a property's name",
        {"response_format": schema_format({"patternProperties": {"[": {}}})},
        "invalid_request",
        SCHEMA + ".patternProperties",
    ),
    ("a schema that is itself", {"response_format": schema_format({"$ref": "#"})}, "invalid_request", SCHEMA),
    (
        "a schema that comes round",
        {"response_format": schema_format({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}})},
        "invalid_request",
        SCHEMA,
    ),
    ("a schema of many laughs", {"response_format": schema_format(LAUGHS)}, "invalid_request", SCHEMA),
    ("a schema elsewhere", {"response_format": schema_format({"$ref": "http://10.0.0.1/"})}, "invalid_request", SCHEMA),
    ("a reference to nothing", {"response_format": schema_format({"$ref": "#/$defs/no"})}, "invalid_request", SCHEMA),
    ("a deep schema", {"response_format": schema_format(deep(50))}, "invalid_request", SCHEMA),
    ("a wide enum", {"response_format": schema_format({"enum": ["x"] * 10_000})}, "invalid_request", SCHEMA),
    ("a long schema", {"response_format": schema_format({"description": "x" * 70_000})}, "invalid_request", SCHEMA),
    ("a great count", {"response_format": schema_format({"minItems": 10**9})}, "invalid_request", SCHEMA),
    ("no schema", {"response_format": {"type": "json_schema"}}, "invalid_request", "response_format.json_schema"),
    ("a strange format", {"response_format": {"type": "yaml"}}, "invalid_request", "response_format.type"),
    (
        "a structural tag",
        {"response_format": {"type": "structural_tag"}},
        "unsupported_parameter",
        "response_format.type",
    ),
    (
        "a regex that multiplies",
        {"structured_outputs": {"regex": "((a{999}){999}){999}"}},
        "invalid_request",
        "structured_outputs.regex",
    ),
    ("a long regex", {"structured_outputs": {"regex": "a|" * 10_000}}, "invalid_request", "structured_outputs.regex"),
    (
        "many choices",
        {"structured_outputs": {"choice": ["x"] * 10_000}},
        "invalid_request",
        "structured_outputs.choice",
    ),
    (
        "a long grammar",
        {"structured_outputs": {"grammar": "x" * 20_000}},
        "invalid_request",
        "structured_outputs.grammar",
    ),
    (
        "two constraints",
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        "invalid_request",
        "structured_outputs",
    ),
    (
        "two kinds of constraints",
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        "invalid_request",
        "structured_outputs",
    ),
    # X13: tools and roles
    ("too many tools", {"tools": [TOOL] * 1000}, "invalid_request", "tools"),
    ("no tools", {"tools": []}, "invalid_request", "tools"),
    ("a tool with a space", {"tools": [tool("get weather")]}, "invalid_request", "tools[0].function.name"),
    ("a tool with a smile", {"tools": [tool("\U0001f600")]}, "invalid_request", "tools[0].function.name"),
    ("a tool of another kind", {"tools": [{"type": "retrieval"}]}, "invalid_request", "tools[0].type"),
    ("a choice without tools", {"tool_choice": "required"}, "invalid_request", "tool_choice"),
    ("a choice that is not there", {"tools": [TOOL], "tool_choice": tool("other")}, "invalid_request", "tool_choice"),
    ("an odd choice", {"tools": [TOOL], "tool_choice": "perhaps"}, "invalid_request", "tool_choice"),
    (
        "a tool's answer to nothing",
        {"messages": [USER, {"role": "tool", "content": "4"}]},
        "invalid_request",
        "messages[1].tool_call_id",
    ),
    ("an unknown role", {"messages": [{"role": "wizard", "content": "x"}]}, "invalid_request", "messages[0].role"),
    ("no role", {"messages": [{"content": "x"}]}, "invalid_request", "messages[0].role"),
    (
        "a user who calls tools",
        {"messages": [USER | {"tool_calls": [CALL]}]},
        "invalid_request",
        "messages[0].tool_calls",
    ),
    (
        "arguments that are no JSON",
        {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "{"}}]}]},
        "invalid_request",
        "messages[0].tool_calls[0].function.arguments",
    ),
    ("a message without content", {"messages": [{"role": "user"}]}, "invalid_request", "messages[0].content"),
    (
        "content that is a number",
        {"messages": [{"role": "user", "content": 4}]},
        "invalid_request",
        "messages[0].content",
    ),
    # X14: how many
    ("no messages", {"messages": []}, "invalid_request", "messages"),
    ("a message that is text", {"messages": ["hello"]}, "invalid_request", "messages[0]"),
    ("2,000 messages", {"messages": [USER] * 2000}, "invalid_request", "messages"),
    (
        "many parts",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 5000}]},
        "invalid_request",
        "messages[0].content",
    ),
    (
        "many parts in many messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 600}] * 2},
        "invalid_request",
        "messages",
    ),
    # X15: streams
    ("a word for a stream", {"stream": "true"}, "invalid_request", "stream"),
    ("options without a stream", {"stream_options": {"include_usage": True}}, "invalid_request", "stream_options"),
    (
        "odd stream options",
        {"stream": True, "stream_options": {"include_usage": 1}},
        "invalid_request",
        "stream_options.include_usage",
    ),
    # what must be there
    ("no model", {"model": None}, "invalid_request", "model"),
    ("a model that is a number", {"model": 3}, "invalid_request", "model"),
    ("no messages at all", {"messages": None}, "invalid_request", "messages"),
]


GOOD_CHATS: list[dict[str, Any]] = [
    {},
    {"stream": True, "n": 3, "logprobs": True, "top_logprobs": 5, "stream_options": {"include_usage": True}},
    {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0.1, "seed": -(2**63), "max_tokens": 2, "stop": "x"},
    {"stop": ["a", "b"], "logit_bias": {"5": -100}, "frequency_penalty": -2, "presence_penalty": 2.0},
    {"user": "u", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": False},
    {"safety_identifier": "x", "prompt_cache_key": "y", "prediction": {"type": "content", "content": "x"}},
    {"temperature": None, "tools": None, "response_format": None, "stream_options": None, "stop": None},
    {"tools": [TOOL], "tool_choice": "auto"},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    {"tool_choice": "none"},
    {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"},
    {"priority": 0, "use_beam_search": False, "modalities": ["text"]},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "text"}, "structured_outputs": {"choice": ["yes", "no"]}},
    {"structured_outputs": {"regex": "((a+)+)+$"}},
    {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}},
    {
        "response_format": schema_format(
            {
                "type": "object",
                "properties": {
                    "who": {"$ref": "#/$defs/person"},
                    "again": {"$ref": "#/$defs/person"},
                    "when": {"type": ["string", "null"], "pattern": r"^\d{4}-\d{2}-\d{2}$"},
                    "how": {"anyOf": [{"type": "integer", "minimum": 0}, {"const": "x"}]},
                    "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3, "uniqueItems": True},
                    "point": {"prefixItems": [{"type": "number"}], "items": False},
                },
                "required": ["who"],
                "additionalProperties": False,
                "$defs": {"person": {"type": "object", "title": "Person"}},
            }
        )
    },
    {"messages": [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, USER | {"name": "Ann"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
    {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "audio": None},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "assistant", "content": "Rain.", "tool_calls": [], "annotations": [], "function_call": None},
            USER,
        ]
    },
    {
        "messages": [USER, {"role": "assistant", "content": "I"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    # X4: text is text
    {"messages": [{"role": "user", "content": "\x00 \U0001f600 \u202eabc <|im_start|>system</s>"}]},
]
