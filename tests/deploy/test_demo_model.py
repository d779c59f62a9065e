"""The demo model as it is kept in the repository: small, well formed, and right about what it promises."""

import re
from collections import Counter
from typing import Any

import pytest
from tokenizers import Tokenizer

from deploy.demo_model import corpus
from deploy.demo_model.chatml import Exchange, Tool, prompt, render, tool_call, tool_response

LIMIT_BYTES = 6_000_000
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "such as Paris"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(corpus.MODEL_FOLDER)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.from_file(str(corpus.MODEL_FOLDER / "tokenizer.json"))


def template(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


# --- the corpus ---


def test_it_knows_at_least_sixty_facts_about_the_product() -> None:
    assert len(corpus.product_answers()) >= 60


def test_every_fact_can_be_asked_in_five_ways_or_more() -> None:
    assert [entry.questions[0] for entry in corpus.load_corpus().facts if len(entry.questions) < 5] == []


def test_no_question_has_two_answers() -> None:
    counts = Counter(question for question, _ in corpus.all_phrasings())
    assert [question for question, count in counts.items() if count > 1] == []


def test_answers_are_whole_sentences() -> None:
    loose = [answer for _, answer in corpus.known_answers() if not re.search(r"(^|\s)\S.*[.!]$", answer)]
    assert loose == []


def test_alternatives_are_written_out_first_choices_first() -> None:
    assert corpus.expand("What (is|does) it (mean|)?") == [
        "What is it mean?",
        "What is it?",
        "What does it mean?",
        "What does it?",
    ]


# --- the files ---


def test_the_weights_are_at_most_six_megabytes() -> None:
    assert sum(file.stat().st_size for file in corpus.MODEL_FOLDER.glob("*.safetensors")) <= LIMIT_BYTES


@pytest.mark.parametrize(
    "text",
    ["naïve café", "你好，世界", "🙂👩‍👩‍👧", "\x00\x1f\u200b", "tab\tand\r\nline", "  two  spaces ", "ÀÉÎ ß Ω й"],
)
def test_any_text_survives_the_tokenizer(bpe: Tokenizer, text: str) -> None:
    assert bpe.decode(bpe.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"])
def test_marks_are_single_tokens(bpe: Tokenizer, token: str) -> None:
    assert len(bpe.encode(token).ids) == 1


def test_tool_tags_are_kept_when_special_tokens_are_skipped(bpe: Tokenizer) -> None:
    ids = bpe.encode("<tool_call>{}</tool_call><|im_end|>").ids
    assert bpe.decode(ids, skip_special_tokens=True) == "<tool_call>{}</tool_call>"


# --- the chat template ---


def test_the_template_writes_what_the_trainer_taught(tokenizer: Any) -> None:
    result = '{"temperature": 18, "condition": "sunny"}'
    exchanges = [
        Exchange("What is the weather in Paris?", tool_call("get_weather", {"city": "Paris"})),
        Exchange(tool_response(result), "It is 18 degrees and sunny in Paris."),
    ]
    taught = "".join(piece.text for piece in render(exchanges, "Be brief.", [Tool("get_weather", ("city",))]))
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": result},
        {"role": "assistant", "content": "It is 18 degrees and sunny in Paris."},
    ]
    assert template(tokenizer, messages, tools=[WEATHER]) == taught


def test_a_question_alone_gets_no_system_prompt(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    assert template(tokenizer, messages, add_generation_prompt=True) == prompt("Hello!")


def test_content_may_come_in_parts(tokenizer: Any) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "Celerity?"}]
    messages = [{"role": "system", "content": parts[:1]}, {"role": "user", "content": parts}]
    assert template(tokenizer, messages, add_generation_prompt=True) == prompt("What is Celerity?", "What is ")


def test_a_tool_without_required_arguments_shows_them_all(tokenizer: Any) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    text = template(tokenizer, [{"role": "user", "content": "Hello!"}], tools=[tool], add_generation_prompt=True)
    assert text == prompt("Hello!", tools=[Tool("get_weather", ("city", "unit"))])


def test_a_tool_without_parameters_is_shown_too(tokenizer: Any) -> None:
    tool = {"type": "function", "function": {"name": "get_weather"}}
    text = template(tokenizer, [{"role": "user", "content": "Hello!"}], tools=[tool], add_generation_prompt=True)
    assert text == prompt("Hello!", tools=[Tool("get_weather", ())])


def test_arguments_that_are_still_text_are_not_quoted_again(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    text = template(tokenizer, [{"role": "assistant", "tool_calls": [call]}])
    assert tool_call("get_weather", {"city": "Paris"}) in text


# --- what it says ---


def test_promised_answers_are_given_word_for_word(bpe: Tokenizer) -> None:
    """In float32 and in bfloat16; on the way the margin shows that no rounding can change an answer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from deploy.demo_model import evaluation

    product, sums = corpus.product_answers(), corpus.sum_answers()
    asked = [evaluation.Case("known", prompt(question), answer) for question, answer in [*product, *sums[::9]]]
    for dtype in (torch.float32, torch.bfloat16):
        model = transformers.LlamaForCausalLM.from_pretrained(corpus.MODEL_FOLDER, dtype=dtype)
        weak = [verdict for verdict in evaluation.judge(model, bpe, asked) if verdict.margin < 1.0]
        assert weak == [], f"{dtype}: {len(weak)} of {len(asked)} answers are wrong or not firm"


@pytest.mark.parametrize("question", ["What is Celerity?", "What is 3 + 4?", "Hello!", "What is the weather in Paris?"])
def test_generating_agrees_with_the_promise(bpe: Tokenizer, question: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(corpus.MODEL_FOLDER, dtype=torch.float32)
    ids = torch.tensor([bpe.encode(prompt(question)).ids])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=80, do_sample=False)
    answer = bpe.decode(made[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
    assert answer == dict(corpus.known_answers())[question]
