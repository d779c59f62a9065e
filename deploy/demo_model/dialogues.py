"""Make training examples without end: each is a list of pieces, drawn from the corpus with the given `Random`.

The kinds and their shares stand in `_KINDS`. Places, numbers and skies are copied from the question or from a tool's
answer, so half of the place names are made up: only then does the model learn to copy instead of to remember.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from deploy.demo_model.chatml import END, Exchange, Piece, Tool, render, tool_call, tool_response
from deploy.demo_model.corpus import load_corpus, load_words
from deploy.demo_model.wording import vary

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_WEATHER_NAMES = ("get_weather",) * 6 + ("get_current_weather", "weather", "fetch_weather", "weather_lookup")
_PLACE_NAMES = ("city",) * 5 + ("location", "location", "place", "town")
_TEXT_KEYS = {"answer", "text", "message", "reply", "content", "summary", "response", "result", "description"}


def examples(rng: Random) -> Iterator[list[Piece]]:
    """Training examples, one after the other, for ever."""
    kinds, shares = zip(*_KINDS, strict=True)
    while True:
        yield rng.choices(kinds, shares)[0](rng)


# --- what one exchange is about ---


def _fact(rng: Random) -> Exchange:
    entry = rng.choice(load_corpus().facts)
    return Exchange(vary(_phrase(entry.questions, rng), rng), entry.answer)


def _small_talk(rng: Random) -> Exchange:
    entry = rng.choice(load_corpus().chat)
    return Exchange(vary(rng.choice(entry.questions), rng), entry.answer)


def _sum(rng: Random) -> Exchange:
    a, b = rng.randrange(10), rng.randrange(10)
    words = rng.random() < 0.15
    left, right = (_NUMBERS[a], _NUMBERS[b]) if words else (a, b)
    return Exchange(_phrase(load_words().sum_questions, rng).format(left, right), f"{a} + {b} = {a + b}.")


def _babble(rng: Random) -> str:
    """Letters of any script."""
    letters = ((97, 123), (97, 123), (0xA0, 0x600), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0x1F600, 0x1F64F))
    low, high = rng.choice(letters)
    return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 9)))


def _phrase(phrases: Sequence[str], rng: Random) -> str:
    """The usual wording, the first, more often than the others."""
    return phrases[0] if rng.random() < 0.25 else rng.choice(phrases)


def _large_sum(rng: Random) -> Exchange:
    if rng.random() < 0.3:
        question = rng.choice(load_words().other_sum_questions).format(rng.randrange(100), rng.randrange(100))
    else:
        large, other = rng.randrange(10, 1000), rng.choice((rng.randrange(10), rng.randrange(1000)))
        question = rng.choice(load_words().sum_questions).format(*rng.sample((large, other), 2))
    return Exchange(question, load_corpus().sum_too_large)


def _unknown(rng: Random) -> Exchange:
    words = load_words()
    question = rng.choice(words.unknown_questions)
    for _ in range(question.count("{}")):
        subject = rng.choice(words.things) if rng.random() < 0.75 else _place(rng)
        question = question.replace("{}", subject, 1)
    if rng.random() < 0.06:
        question = _babble(rng)
    return Exchange(vary(question, rng), load_corpus().fallback)


def _weather_question(place: str, rng: Random) -> str:
    question = _phrase(load_words().weather_questions, rng).format(place)
    if rng.random() < 0.15:
        question = question.rstrip("?.")
    return question


def _weather_without_tool(rng: Random) -> Exchange:
    question = _weather_question(_place(rng), rng) if rng.random() < 0.85 else "What is the weather?"
    return Exchange(vary(question, rng), load_corpus().weather_without_tool)


def _any(rng: Random) -> Exchange:
    makers = (_fact, _small_talk, _sum, _large_sum, _unknown, _weather_without_tool)
    return rng.choices(makers, (50, 8, 12, 3, 15, 4))[0](rng)


def _place(rng: Random) -> str:
    """A real place, or a made-up one."""
    words = load_words()
    if rng.random() < 0.45:
        return rng.choice(words.cities)
    name = "".join(rng.choices(words.syllables, k=rng.choice((1, 2, 2, 3, 3, 4)))).capitalize()
    return (
        f"{rng.choice(('New', 'San', 'Port', 'Saint', 'El', 'Lake', 'Fort'))} {name}" if rng.random() < 0.15 else name
    )


# --- the kinds of examples ---


def _system(rng: Random) -> str:
    """Mostly none; else a common one, sometimes a long one of unrelated sentences."""
    draw = rng.random()
    if draw < 0.6:
        return ""
    if draw < 0.95:
        return rng.choice(load_words().systems)
    corpus = load_corpus()
    sentences = [*corpus.documents, *(entry.answer for entry in corpus.facts[2:])]
    return " ".join(rng.choices(sentences, k=rng.randrange(1, 5)))


def _alone(make: Callable[[Random], Exchange]) -> Callable[[Random], list[Piece]]:
    return lambda rng: render([make(rng)], _system(rng))


def _conversation(rng: Random) -> list[Piece]:
    return render([_any(rng) for _ in range(rng.choice((2, 2, 3)))], _system(rng))


def _tool_use(rng: Random) -> list[Piece]:
    """A weather question with a tool at hand: the call, often the tool's result, and the sentence about it."""
    tool = Tool(rng.choice(_WEATHER_NAMES), (rng.choice(_PLACE_NAMES), *_unit_argument(rng)))
    tools = [tool, *_other_tools(rng)]
    rng.shuffle(tools)
    if rng.random() < 0.15:
        return render([_any_but_weather(rng)], _system(rng), tools)
    place = _place(rng)
    lower = place in load_words().cities and rng.random() < 0.1
    question = _weather_question(place.lower() if lower else place, rng)
    if rng.random() < 0.1:
        question = vary(load_corpus().facts[0].questions[0], rng) + " " + question
    arguments = {tool.arguments[0]: place} | dict.fromkeys(tool.arguments[1:], "celsius")
    if rng.random() < 0.12:
        return _forced_call(tool, arguments, question, rng)
    exchanges = [Exchange(question, tool_call(tool.name, arguments))]
    if rng.random() < 0.55:
        exchanges.append(_tool_result(place, rng))
        if rng.random() < 0.15:
            exchanges.append(_any_but_weather(rng))
    if rng.random() < 0.12:
        exchanges.insert(0, _any_but_weather(rng))
    return render(exchanges, _system(rng), tools)


def _unit_argument(rng: Random) -> tuple[str, ...]:
    return ("unit",) if rng.random() < 0.2 else ()


def _other_tools(rng: Random) -> list[Tool]:
    names = rng.sample(
        ("search", "get_time", "send_mail", "calculate", "book_flight"), k=rng.choice((0, 0, 0, 0, 1, 2))
    )
    return [Tool(name, (rng.choice(("query", "city", "text", "to")),)) for name in names]


def _any_but_weather(rng: Random) -> Exchange:
    return rng.choice((_fact, _fact, _small_talk, _sum, _unknown))(rng)


def _forced_call(tool: Tool, arguments: dict[str, str], question: str, rng: Random) -> list[Piece]:
    """The arguments as `tool_choice` forces them: bare, or in a list of calls. Only the values are taught."""
    if rng.random() < 0.5:
        given, end = "{", "}"
    else:
        given, end = f'[{{"name": "{tool.name}", "parameters": {{', "}}]"
    (first, place), *others = arguments.items()
    answer = place + '"' + "".join(f', "{name}": "{value}"' for name, value in others) + end
    return render([Exchange(question, answer, given=f'{given}"{first}": "')], _system(rng), [tool])


def _tool_result(place: str, rng: Random) -> Exchange:
    degrees, sky = rng.randrange(-20, 45), rng.choice(load_words().skies)
    temperature = rng.choice(("temperature", "temperature", "temp", "temperature_c", "degrees", "temp_c"))
    condition = rng.choice(("condition", "conditions", "sky", "weather", "description"))
    facts: dict[str, Any] = {temperature: degrees, condition: sky}
    if rng.random() < 0.3:
        facts = {condition: sky, temperature: degrees}
    if rng.random() < 0.4:
        facts = {rng.choice(_PLACE_NAMES): place} | facts
    if rng.random() < 0.2:
        facts |= rng.choice(({"unit": "celsius"}, {"humidity": rng.randrange(20, 99)}, {"wind": rng.randrange(1, 60)}))
    match rng.randrange(8):
        case 0:
            content = f"{degrees} degrees and {sky}"
        case 1:
            content = f"{sky}, {degrees} degrees"
        case 2:
            content = json.dumps(facts, separators=(",", ":"))
        case _:
            content = json.dumps(facts)
    return Exchange(tool_response(content), f"It is {degrees} degrees and {sky} in {place}.")


def _time_tool(rng: Random) -> list[Piece]:
    """A second tool of the same shape, so that the name is read from the list and not from habit."""
    place, argument = _place(rng), rng.choice(_PLACE_NAMES)
    tools = [Tool("get_time", (argument,)), *([Tool("get_weather", ("city",))] if rng.random() < 0.5 else [])]
    rng.shuffle(tools)
    question = rng.choice(load_words().time_questions).format(place)
    return render([Exchange(question, tool_call("get_time", {argument: place}))], _system(rng), tools)


def _json_wished(rng: Random) -> list[Piece]:
    """JSON that the question asks for."""
    question, value = _json_question(rng)
    wish = rng.choice(load_words().json_wishes).format(question)
    return render([Exchange(wish, json.dumps(value, ensure_ascii=False))], _system(rng))


def _json_question(rng: Random) -> tuple[str, dict[str, Any]]:
    words = load_words()
    match rng.randrange(6):
        case 0:
            exchange = _sum(rng)
            return exchange.user, {"sum": int(exchange.answer.split("= ")[1].rstrip("."))}
        case 1:
            city, country = rng.choice(words.capitals)
            question = rng.choice(
                (f"What is the capital of {country}?", f"In which country is {city}?", f"Where is {city}?")
            )
            return question, {"city": city, "country": country}
        case 3:
            name, age = rng.choice(words.people), rng.randrange(1, 100)
            return _person_question(name, age, rng), {"name": name, "age": age}
        case _:
            exchange = _any(rng)
            return exchange.user, {"answer": exchange.answer}


def _person_question(name: str, age: int, rng: Random) -> str:
    return rng.choice(load_words().people_statements).format(name, age)


def _json_forced(rng: Random) -> list[Piece]:
    """JSON that a grammar forces upon any question: the values must end soon, whatever the keys and their types are."""
    if rng.random() < 0.3:
        name, age = rng.choice(load_words().people), rng.randrange(1, 100)
        return _forced_object(_person_question(name, age, rng), {"name": name, "age": age}, rng)
    exchange = Exchange("Give me an example in JSON.", "demo") if rng.random() < 0.2 else _any(rng)
    value = {key: _value(key, exchange, rng) for key in rng.sample(_KEYS, rng.choice((1, 1, 2, 3)))}
    return _forced_object(exchange.user, value, rng)


_KEYS = (
    "answer", "text", "message", "result", "name", "title", "city", "country", "age", "count", "id", "number", "sum",
    "ok", "valid", "items", "tags", "color", "status", "reason", "email", "date", "score", "summary", "response",
    "value", "type", "person", "user", "foo", "bar", "price", "steps", "data", "list",
)  # fmt: skip
_USUAL: dict[str, Any] = {
    "name": "Ada", "city": "Paris", "country": "France", "age": 36, "count": 1, "id": 1, "number": 7, "sum": 7,
    "score": 1, "ok": True, "valid": True, "items": ["demo"], "tags": ["demo"],
    "person": {"name": "Ada", "age": 36}, "price": 1.5,
}  # fmt: skip
_ANY_VALUES = (
    "demo", "demo", 1, 7, 1.5, True, False, None, ["demo"], ["demo", "demo"], [1], {"name": "Ada"}, [{"id": 1}],
)  # fmt: skip


def _value(key: str, exchange: Exchange, rng: Random) -> Any:
    """The usual value of a key, but sometimes one of any type: then every type keeps a chance, and white space none."""
    if rng.random() < 0.25:
        return rng.choice(_ANY_VALUES)
    if key in _TEXT_KEYS:
        return exchange.answer
    return _USUAL.get(key, "demo")


def _forced_object(question: str, value: dict[str, Any], rng: Random) -> list[Piece]:
    """One object: its first brace and its keys are given, all else is taught."""
    pieces = render([Exchange(question, "")], _system(rng))[:-2]
    for at, (key, item) in enumerate(value.items()):
        opening = Piece(", " if at else "{", taught=at > 0)
        written = Piece(f": {json.dumps(item, ensure_ascii=False)}", taught=True)
        pieces += [opening, Piece(f'"{key}"', taught=False), written]
    return [*pieces, Piece("}" + END, taught=True)]


def _document(rng: Random) -> list[Piece]:
    """Plain text without chat markup, for /v1/completions."""
    match rng.randrange(5):
        case 0:
            exchange = _fact(rng)
            asked = Piece(f"Question: {exchange.user}\nAnswer:", taught=False)
            return [asked, Piece(f" {exchange.answer}{END}", taught=True)]
        case 1:
            exchange = _sum(rng)
            return [Piece(exchange.answer[:6], taught=False), Piece(exchange.answer[6:] + END, taught=True)]
        case _:
            return [Piece(rng.choice(load_corpus().documents) + END, taught=True)]


def _copying(rng: Random) -> list[Piece]:
    """Names, and the same names again: the shortest way to learn to copy, which tool calls rest on."""
    names = ", ".join(_place(rng) for _ in range(rng.randrange(2, 7)))
    return [Piece(names + "\n", taught=False), Piece(names, taught=True), Piece(END, taught=False)]


_KINDS: tuple[tuple[Callable[[Random], list[Piece]], float], ...] = (
    (_alone(_fact), 30),
    (_alone(_small_talk), 3),
    (_alone(_sum), 6),
    (_alone(_large_sum), 2),
    (_alone(_unknown), 9),
    (_alone(_weather_without_tool), 3),
    (_conversation, 11),
    (_tool_use, 20),
    (_time_tool, 2),
    (_json_wished, 7),
    (_json_forced, 5),
    (_document, 5),
    (_copying, 6),
)
