"""The README's examples, run as they stand but for the address."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.e2e.conftest import System
from tests.stack import REPOSITORY

ADDRESS = "http://127.0.0.1:8000/v1"


@dataclass(frozen=True)
class Example:
    name: str
    language: str
    code: str
    output: str | None
    """What the README shows below it, if anything."""


def examples() -> list[Example]:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [
        Example(f"{language}-{number}", language, code, following[1] if following[0] == "text" else None)
        for number, ((language, code), following) in enumerate(zip(blocks, [*blocks[1:], ("", "")], strict=True))
        if language in ("bash", "python")
    ]


@pytest.mark.e2e
@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_an_example_does_what_the_readme_says(system: System, example: Example) -> None:
    assert ADDRESS in example.code
    code = example.code.replace(ADDRESS, system.url)
    command = ["bash", "-euc", code] if example.language == "bash" else [sys.executable, "-c", code]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if example.output is not None:
        assert done.stdout == example.output
    elif '"stream": true' in example.code:
        assert done.stdout.count("data: ") > 10
        assert done.stdout.rstrip().endswith("data: [DONE]")
    else:
        assert '"object":"chat.completion"' in done.stdout


def test_the_readme_shows_every_way_to_ask() -> None:
    kinds = [(example.language, "stream" in example.code) for example in examples()]
    assert sorted(kinds) == [("bash", False), ("bash", True), ("python", False), ("python", True)]
