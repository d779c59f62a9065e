"""What files can be handed in, what becomes of their lines, and what is said of the others."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from deploy.batch_input import CHAT, BatchInput, Limits, Shape, look_through
from deploy.errors import CommandError

LIMITS = Limits(lines=50_000, size=200 << 20)
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def line(number: int = 1, **more: Any) -> dict[str, Any]:
    return {"custom_id": f"c-{number}", "method": "POST", "url": CHAT, "body": BODY} | more


def given(folder: Path, *lines: Any, end: str = "\n") -> Path:
    path = folder / "prompts.jsonl"
    text = end.join(it if isinstance(it, str) else json.dumps(it) for it in lines)
    path.write_bytes(text.encode())
    return path


def look(path: Path, endpoint: str | None = None, model: str | None = None, limits: Limits = LIMITS) -> BatchInput:
    return look_through(path, endpoint=endpoint, model=model, limits=limits)


def sent(found: BatchInput) -> list[dict[str, Any]]:
    content = b"".join(found.blocks())
    assert len(content) == found.size
    assert content.endswith(b"\n")
    return [json.loads(text) for text in content.splitlines()]


def test_batch_lines_are_sent_as_they_are(tmp_path: Path) -> None:
    lines = [line(1), line(2)]
    found = look(given(tmp_path, *lines))
    assert (found.shape, found.endpoint, found.lines) == (Shape.LINES, CHAT, 2)
    assert sent(found) == lines


def test_blank_lines_stay_where_the_server_counts_them(tmp_path: Path) -> None:
    found = look(given(tmp_path, line(1), "", line(2), "", ""))
    assert found.lines == 2
    assert b"".join(found.blocks()).splitlines()[1] == b""


def test_bodies_become_lines_named_by_their_place(tmp_path: Path) -> None:
    found = look(given(tmp_path, BODY, "", {"messages": []}), model="other")
    assert (found.shape, found.endpoint, found.lines) == (Shape.BODIES, CHAT, 2)
    assert sent(found) == [
        {"custom_id": "line-1", "method": "POST", "url": CHAT, "body": BODY},
        {"custom_id": "line-3", "method": "POST", "url": CHAT, "body": {"model": "other", "messages": []}},
    ]


@pytest.mark.parametrize(
    ("body", "endpoint"), [({"prompt": "x"}, "/v1/completions"), ({"input": "x"}, "/v1/embeddings")]
)
def test_a_body_tells_what_it_is_for(tmp_path: Path, body: dict[str, Any], endpoint: str) -> None:
    assert look(given(tmp_path, {"model": "m", **body})).endpoint == endpoint


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (None, {"messages": [{"role": "user", "content": 'What is "3 + 4"?'}]}),
        ("/v1/completions", {"prompt": 'What is "3 + 4"?'}),
        ("/v1/embeddings", {"input": 'What is "3 + 4"?'}),
    ],
)
def test_plain_text_is_one_prompt_a_line(tmp_path: Path, endpoint: str | None, body: dict[str, Any]) -> None:
    found = look(given(tmp_path, 'What is "3 + 4"?', "", "Größe?", end="\r\n"), endpoint, "demo")
    assert (found.shape, found.endpoint, found.lines) == (Shape.PROMPTS, endpoint or CHAT, 2)
    first, second = sent(found)
    assert first == {
        "custom_id": "line-1",
        "method": "POST",
        "url": endpoint or CHAT,
        "body": {"model": "demo", **body},
    }
    assert (second["custom_id"], "Größe?" in str(second["body"])) == ("line-3", True)


def test_the_mark_of_an_editor_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    found = look(given(tmp_path, "\ufeff" + json.dumps(line())))
    assert sent(found) == [line()]


@pytest.mark.parametrize(
    ("lines", "options", "expected"),
    [
        ([""], {}, r"prompts\.jsonl is empty"),
        (["hello"], {}, "plain text, one prompt a line; say with --model"),
        (["["], {}, r"begins with a JSON array.*jq -c '\.\[\]'"),
        ([json.dumps([line()])], {}, "begins with a JSON array"),
        (["{"], {}, "line 1 is not valid JSON .* whole on that line"),
        ([line(), "{'a': 1}"], {}, "line 2 is not valid JSON"),
        ([line(), "", "7"], {}, "line 3 is not a JSON object"),
        ([{"question": "x"}], {}, "line 1 is no batch line .* none of messages, prompt, input"),
        ([line(url="/v1/images")], {}, "line 1 has the url '/v1/images'; it can be /v1/chat/completions,"),
        ([line()], {"endpoint": "/v1/embeddings"}, "line 1 is for /v1/chat/completions, and --endpoint says /v1/emb"),
        ([line()], {"model": "m"}, "leave --model out"),
        ([BODY, {"messages": []}], {}, "line 2 names no model; give one with --model"),
    ],
)
def test_what_could_be_no_batch_is_said_with_its_line(
    tmp_path: Path, lines: list[Any], options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(CommandError, match=expected):
        look(given(tmp_path, *lines), **options)


def test_text_in_another_encoding_is_said(tmp_path: Path) -> None:
    path = given(tmp_path, "x")
    path.write_bytes("ok\nGröße\n".encode("latin-1"))
    with pytest.raises(CommandError, match="line 2 is not UTF-8"):
        look(path, model="m")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"no\.jsonl cannot be read: No such file"):
        look(tmp_path / "no.jsonl")


@pytest.mark.parametrize(("limits", "each"), [(Limits(4, 1 << 20), 4), (Limits(9, 1 << 20), 5), (Limits(100, 200), 1)])
def test_too_much_is_said_with_how_to_split_it(tmp_path: Path, limits: Limits, each: int) -> None:
    path = given(tmp_path, *(line(n) for n in range(10)))
    with pytest.raises(CommandError, match=rf"has 10 lines and .*\n  split -l {each} -d --additional-suffix=\.jsonl "):
        look(path, limits=limits)


def test_each_part_of_a_split_is_small_enough(tmp_path: Path) -> None:
    path = given(tmp_path, *(line(n) for n in range(1000)))
    limits = Limits(300, 40_000)
    with pytest.raises(CommandError) as refusal:
        look(path, limits=limits)
    each = int(str(refusal.value).split("split -l ")[1].split()[0])
    lines = path.read_text().splitlines()
    parts = [lines[at : at + each] for at in range(0, len(lines), each)]
    assert all(len(part) <= limits.lines and sum(len(it) + 1 for it in part) <= limits.size for part in parts)


@pytest.mark.parametrize("more", [[line(2), line(3)], []])
def test_a_file_that_changes_while_it_is_sent_is_said(tmp_path: Path, more: list[Any]) -> None:
    found = look(given(tmp_path, line(1), line(2)))
    given(tmp_path, line(1), *more)
    with pytest.raises(CommandError, match="was changed while it was read"):
        list(found.blocks())


@pytest.mark.parametrize("text", [json.dumps(line()), "a prompt of some length"])
def test_a_long_file_is_held_in_pieces_only(tmp_path: Path, text: str) -> None:
    path = tmp_path / "long.txt"
    path.write_text(f"{text}\n" * 20_000)
    tracemalloc.start()
    found = look(path, model=None if text.startswith("{") else "m", limits=Limits(100_000, 1 << 30))
    total = sum(map(len, found.blocks()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == found.size > 2_500_000
    assert peak < 1_200_000
