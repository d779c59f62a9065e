from __future__ import annotations

from typing import Any

import pytest

from tasks.bulk.prefix import prefix_of

LONG = "word " * 100


def chat(*messages: tuple[str, Any], model: str = "demo") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": role, "content": content} for role, content in messages]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (chat(("system", "Be brief."), ("user", "1")), chat(("system", "Be brief."), ("user", "2"))),
        (chat(("user", LONG + "1")), chat(("user", LONG + "2"))),
        (chat(("user", [{"type": "text", "text": LONG + "1"}])), chat(("user", LONG + "2"))),
        (
            chat(("user", LONG[:150]), ("assistant", LONG)),
            chat(("user", LONG[:150]), ("assistant", LONG), ("user", "x")),
        ),
        ({"model": "demo", "prompt": LONG + "1"}, {"model": "demo", "prompt": LONG + "2"}),
        ({"model": "demo", "prompt": [LONG, "x"]}, {"model": "demo", "prompt": [LONG, "y"]}),
        ({"model": "demo", "prompt": [*range(100), 1]}, {"model": "demo", "prompt": [*range(100), 2]}),
        ({"model": "demo", "input": "one"}, {"model": "demo", "input": "two"}),
        (chat(("user", "short")), chat(("user", "shorter"))),
    ],
)
def test_prompts_that_begin_alike_have_the_same_prefix(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert prefix_of(one) == prefix_of(other)
    assert len(prefix_of(one)) == 16


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (chat(("system", "Be brief.")), chat(("system", "Be long."))),
        (chat(("user", "1")), chat(("user", "1"), model="other")),
        (chat(("user", "1" + LONG)), chat(("user", "2" + LONG))),
        ({"model": "demo", "prompt": "1" + LONG}, {"model": "demo", "prompt": "2" + LONG}),
    ],
)
def test_prompts_that_begin_otherwise_have_another(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert prefix_of(one) != prefix_of(other)


def test_those_with_the_same_instructions_stand_together() -> None:
    system = ("system", "Be brief.")
    bodies = [chat(system, ("user", f"{number}{LONG}")) for number in range(5)]
    assert len({prefix_of(body)[:8] for body in bodies}) == 1
    assert len({prefix_of(body) for body in bodies}) == 5


@pytest.mark.parametrize(
    "messages", [None, 3, [], [3], [{}], [{"role": [], "content": {}}], [{"content": [3, {"text": 4}]}]]
)
@pytest.mark.parametrize("prompt", [None, 3, [], [None], {"a": 1}])
def test_any_body_has_a_prefix(messages: Any, prompt: Any) -> None:
    assert len(prefix_of({"messages": messages, "prompt": prompt})) == 16
    assert len(prefix_of({"prompt": prompt})) == 16
