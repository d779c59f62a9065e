"""Say the same question in other words: prefixes, politeness, case, lost punctuation, slips of the finger.

A small model knows a question by its wording, so it must have seen many. Everything is drawn from the given `Random`.
"""

import re
from random import Random

_REWORDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"^What is ", ("What's ", "Whats ", "What exactly is ", "Tell me what is ", "So what is ", "Explain what is ")),
    (r"^What does ", ("What exactly does ", "Tell me what does ", "So what does ", "And what does ")),
    (r"^What are ", ("What exactly are ", "Tell me what are ", "So what are ")),
    (r"^What happens ", ("What will happen ", "Tell me what happens ", "And what happens ")),
    (
        r"^How do I ",
        (
            "How can I ",
            "How to ",
            "How would I ",
            "How should I ",
            "Tell me how to ",
            "How does one ",
            "I want to know how to ",
            "How do we ",
            "Show me how to ",
        ),
    ),
    (r"^How does ", ("How exactly does ", "Explain how does ", "Tell me how does ")),
    (r"^How can I ", ("How do I ", "How to ", "How could I ")),
    (r"^Why do I get ", ("Why did I get ", "I got ", "I get ", "I see ", "Help, I get ")),
    (r"^Does Celerity ", ("Does it ", "Can Celerity ", "Will Celerity ")),
    (r"^Is there ", ("Does Celerity have ", "Do you have ", "Have you got ")),
    (r"^Which ", ("What ",)),
    (r"^Can I ", ("Could I ", "May I ", "Is it possible to ")),
)
_PREFIXES = (
    "Please tell me: ", "Tell me: ", "Hi, ", "Hello, ", "Hey, ", "Hello! ", "Hi! ", "Question: ", "Quick question: ",
    "Can you tell me: ", "Could you tell me, ", "I have a question: ", "I would like to know: ", "Excuse me, ", "Ok, ",
    "Ok. ", "And ", "So, ", "Well, ", "Please, ", "Please answer: ", "Thanks. ", "Now: ", "Another question: ",
)  # fmt: skip
_SUFFIXES = (
    " Please.", " Please answer briefly.", " Thanks!", " Thank you.", " Thanks in advance.", " Be brief.",
    " Answer in one sentence.", " I am new here.", " Tell me.", " Explain.", " I need to know.",
)  # fmt: skip
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def vary(question: str, rng: Random) -> str:
    """The question as someone else might type it; one time in three exactly as it stands."""
    if rng.random() < 0.33:
        return question
    text = question
    if rng.random() < 0.4:
        text = _reword(text, rng)
    if rng.random() < 0.3:
        text = _surround(text, rng)
    if rng.random() < 0.45:
        text = _strip(text, rng)
    if rng.random() < 0.3:
        text = _misspell(text, rng)
    return text


def _reword(text: str, rng: Random) -> str:
    for pattern, others in _REWORDINGS:
        if re.match(pattern, text):
            return re.sub(pattern, rng.choice(others), text, count=1)
    return text


def _surround(text: str, rng: Random) -> str:
    """Politeness before, after, or on both sides."""
    if rng.random() < 0.6:
        start = rng.choice(_PREFIXES)
        text = start + (_lower_first(text) if start.endswith((", ", "And ")) else text)
    if rng.random() < 0.5:
        text = text.rstrip("?") + ", please?" if rng.random() < 0.4 else text + rng.choice(_SUFFIXES)
    return text


def _lower_first(text: str) -> str:
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def _strip(text: str, rng: Random) -> str:
    """Case and punctuation, as typed in a hurry."""
    match rng.randrange(7):
        case 0:
            typed = text.lower()
        case 1:
            typed = text.lower().rstrip("?!.")
        case 2:
            typed = text.rstrip("?!.")
        case 3:
            typed = text.replace("`", "")
        case 4:
            typed = text.lower().replace("`", "")
        case 5:
            typed = text + rng.choice(("?", "??", " ", "\n", "!", "."))
        case _:
            typed = text.upper()
    return typed


def _misspell(text: str, rng: Random) -> str:
    """One slip, or two in a long question: a letter lost, doubled, swapped with its neighbour, or mistaken."""
    for _ in range(1 if len(text) < 30 else rng.choice((1, 1, 2))):
        places = [at for at in range(1, len(text) - 1) if text[at].isalpha() and text[at + 1].isalpha()]
        if not places:
            return text
        at = rng.choice(places)
        before, letter, following, after = text[:at], text[at], text[at + 1], text[at + 2 :]
        middle = rng.choice((following, letter * 2 + following, following + letter, rng.choice(_LETTERS) + following))
        text = before + middle + after
    return text
