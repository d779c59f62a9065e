"""The request bodies of the endpoints: OpenAI's and vLLM's fields, one by one.

What is not named here is refused, so that a new field of the engine is a decision, not
an accident. Ranges are the engine's, or narrower where it has none. Sizes that only the
model knows (context, vocabulary) are left to the engine.
"""

from __future__ import annotations

from typing import Any

from tasks.openai.fields import (
    INT32_MAX,
    INT64_MAX,
    INT64_MIN,
    MAX_TOKEN_ID,
    Checked,
    Flag,
    Ignored,
    OneOf,
    Real,
    RequestSchema,
    Text,
    Unsupported,
    Whole,
    known_keys,
    refuse,
    strings,
    token_ids,
)
from tasks.openai.messages import check_messages
from tasks.openai.prompts import check_input, check_prompt, prompts_in
from tasks.openai.structured import check_response_format, check_structured_outputs
from tasks.openai.tools import check_choice_among, check_tool_choice, check_tools

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_LOGPROBS = 20
MAX_ANSWERS = 128

_INTERNAL = "it is the server's own."
_TEMPLATE = "the prompt is made by the model's own template."
_MEDIA = "only text is served."
_BEAM = "beam search is not offered."


def _check_stop(value: Any, param: str) -> None:
    strings([value] if type(value) is str else value, param, most=MAX_STOPS, longest=512)


def _check_stream_options(value: Any, param: str) -> None:
    if type(value) is not dict:
        refuse(param, "must be an object.")
    known_keys(value, frozenset({"include_usage", "continuous_usage_stats", "include_obfuscation"}), param)
    for key, flag in value.items():
        if type(flag) not in (bool, type(None)):
            refuse(f"{param}.{key}", "must be true or false.")


def _check_logit_bias(value: Any, param: str) -> None:
    if type(value) is not dict or len(value) > 1024:
        refuse(param, "must be an object of at most 1024 token ids.")
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) < 9 and int(token) <= MAX_TOKEN_ID):
            refuse(param, f"may have only token ids from 0 to {MAX_TOKEN_ID} as keys.")
        if type(bias) not in (int, float) or not -100 <= bias <= 100:
            refuse(param, "may have only numbers from -100 to 100 as values.")


def _check_template_kwargs(value: Any, param: str) -> None:
    if type(value) is not dict:
        refuse(param, "must be an object.")
    for key, flag in value.items():
        if key not in ("enable_thinking", "thinking") or type(flag) is not bool:
            refuse(param, "may hold only 'enable_thinking' and 'thinking', each true or false.")


def _check_bad_words(value: Any, param: str) -> None:
    strings(value, param, most=128, longest=256)


def _check_few_token_ids(value: Any, param: str) -> None:
    token_ids(value, param, most=1024)


def _check_cache_salt(value: Any, param: str) -> None:
    if type(value) is not str or not 1 <= len(value) <= 128 or any(c in value for c in "@/\\\0"):
        refuse(param, "must be a string of 1 to 128 characters without '@', '/', '\\' and NUL.")


class _EngineSchema(RequestSchema):
    """What all endpoints share."""

    model = Text(longest=INT32_MAX)
    user = Text(512)
    metadata = Ignored()
    store = Ignored()
    service_tier = OneOf("auto", "default", "flex", "priority", "scale")
    safety_identifier = Ignored()
    prompt_cache_key = Ignored()
    prompt_cache_retention = Ignored()
    add_special_tokens = Flag()
    truncate_prompt_tokens = Whole(-1, INT32_MAX)
    truncation_side = OneOf("left", "right")
    cache_salt = Checked(_check_cache_salt)
    priority = Unsupported("the queue decides who goes first.", 0)
    request_id = Unsupported(_INTERNAL)
    session_id = Unsupported(_INTERNAL)
    mm_processor_kwargs = Unsupported(_MEDIA)
    kv_transfer_params = Unsupported(_INTERNAL)
    ec_transfer_params = Unsupported(_INTERNAL)
    vllm_xargs = Unsupported(_INTERNAL)
    logits_processors = Unsupported(_INTERNAL)


class _GenerationSchema(_EngineSchema):
    """What chats and completions share: sampling."""

    stream = Flag()
    stream_options = Checked(_check_stream_options)
    n = Whole(1, MAX_CHOICES)
    seed = Whole(INT64_MIN, INT64_MAX)
    stop = Checked(_check_stop)
    temperature = Real(0, 2)
    top_p = Real(0, 1, above=True)
    top_k = Whole(-1, INT32_MAX)
    min_p = Real(0, 1)
    frequency_penalty = Real(-2, 2)
    presence_penalty = Real(-2, 2)
    repetition_penalty = Real(0, 10, above=True)
    logit_bias = Checked(_check_logit_bias)
    min_tokens = Whole(0, INT32_MAX)
    stop_token_ids = Checked(_check_few_token_ids)
    allowed_token_ids = Checked(_check_few_token_ids)
    bad_words = Checked(_check_bad_words)
    include_stop_str_in_output = Flag()
    ignore_eos = Flag()
    skip_special_tokens = Flag()
    spaces_between_special_tokens = Flag()
    prompt_logprobs = Whole(0, MAX_LOGPROBS)
    echo = Flag()
    return_tokens_as_token_ids = Flag()
    return_token_ids = Flag()
    stream_interval = Whole(1, 1000)
    thinking_token_budget = Whole(-1, INT32_MAX)
    response_format = Checked(check_response_format)
    structured_outputs = Checked(check_structured_outputs)
    use_beam_search = Unsupported(_BEAM, False)
    length_penalty = Unsupported(_BEAM, 1, 1.0)
    best_of = Unsupported(_BEAM, 1)
    early_stopping = Unsupported(_BEAM, False)
    watermarking = Unsupported(_INTERNAL, False)
    repetition_detection = Unsupported(_INTERNAL)
    logprob_token_ids = Unsupported(_INTERNAL)
    routed_experts_prompt_start = Unsupported(_INTERNAL, 0)
    return_token_offsets = Unsupported(_INTERNAL, False)
    mm_payload = Unsupported(_MEDIA)
    return_mm_kwargs = Unsupported(_MEDIA)
    prompt_embeds = Unsupported("prompts are text or token ids.")
    guided_json = Unsupported("use 'response_format' or 'structured_outputs'.")
    guided_regex = Unsupported("use 'structured_outputs'.")
    guided_choice = Unsupported("use 'structured_outputs'.")
    guided_grammar = Unsupported("use 'structured_outputs'.")
    guided_decoding_backend = Unsupported(_INTERNAL)
    guided_whitespace_pattern = Unsupported(_INTERNAL)

    def check_together(self, body: dict[str, Any]) -> None:
        if body.get("stream_options") is not None and not body.get("stream"):
            refuse("stream_options", "may be given only with 'stream': true.")
        if body.get("prompt_logprobs") and body.get("stream"):
            refuse("prompt_logprobs", "are not available with 'stream': true.")
        wanted = body.get("response_format")
        if wanted is not None and wanted["type"] != "text" and body.get("structured_outputs") is not None:
            refuse("structured_outputs", "and 'response_format' cannot be used together.")
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        if most and body.get("min_tokens") and body["min_tokens"] > most:
            refuse("min_tokens", "must not be larger than 'max_tokens'.")


class ChatSchema(_GenerationSchema):
    """POST /v1/chat/completions."""

    needed = ("model", "messages")

    messages = Checked(check_messages)
    max_tokens = Whole(1, INT32_MAX)
    max_completion_tokens = Whole(1, INT32_MAX)
    logprobs = Flag()
    top_logprobs = Whole(0, MAX_LOGPROBS)
    tools = Checked(check_tools)
    tool_choice = Checked(check_tool_choice)
    parallel_tool_calls = Flag()
    reasoning_effort = OneOf("none", "minimal", "low", "medium", "high", "xhigh", "max")
    include_reasoning = Flag()
    add_generation_prompt = Flag()
    continue_final_message = Flag()
    chat_template_kwargs = Checked(_check_template_kwargs)
    return_prompt_text = Flag()
    prediction = Ignored()
    verbosity = Ignored()
    modalities = Unsupported(_MEDIA, ["text"])
    audio = Unsupported(_MEDIA)
    media_io_kwargs = Unsupported(_MEDIA)
    chat_template = Unsupported(_TEMPLATE)
    documents = Unsupported(_TEMPLATE)
    web_search_options = Unsupported("there is no web search here.")
    functions = Unsupported("use 'tools'.")
    function_call = Unsupported("use 'tool_choice'.")

    def check_together(self, body: dict[str, Any]) -> None:
        super().check_together(body)
        if body.get("top_logprobs") and not body.get("logprobs"):
            refuse("top_logprobs", "may be given only with 'logprobs': true.")
        check_choice_among(body.get("tool_choice"), body.get("tools"))
        if body.get("continue_final_message") and body.get("add_generation_prompt"):
            refuse("continue_final_message", "and 'add_generation_prompt' cannot both be true.")
        if body.get("continue_final_message") and body["messages"][-1]["role"] != "assistant":
            refuse("continue_final_message", "needs a last message by the assistant.")


class CompletionSchema(_GenerationSchema):
    """POST /v1/completions."""

    needed = ("model", "prompt")

    prompt = Checked(check_prompt)
    max_tokens = Whole(0, INT32_MAX)
    logprobs = Whole(0, MAX_LOGPROBS)
    suffix = Unsupported("no model here fills in the middle.", "")

    def check_together(self, body: dict[str, Any]) -> None:
        super().check_together(body)
        if body.get("max_tokens") == 0 and not body.get("echo"):
            refuse("max_tokens", "may be 0 only with 'echo': true.")
        if prompts_in(body["prompt"]) * (body.get("n") or 1) > MAX_ANSWERS:
            refuse("prompt", f"asks for too many answers at once: prompts times 'n' may be {MAX_ANSWERS} at most.")


class EmbeddingSchema(_EngineSchema):
    """POST /v1/embeddings."""

    needed = ("model", "input")

    input = Checked(check_input)
    encoding_format = OneOf("float", "base64")
    dimensions = Whole(1, 65_536)
    padding = OneOf("max_length", "do_not_pad")
    use_activation = Flag()
    messages = Unsupported("send text as 'input'.")
    embed_dtype = Unsupported("vectors are float32.", "float32")
    endianness = Unsupported("base64 is little-endian.", "native", "little")


CHAT = ChatSchema()
COMPLETION = CompletionSchema()
EMBEDDING = EmbeddingSchema()
