"""The Lua scripts beside this module. Each is one step in a request's life, taken whole or not at all."""

from __future__ import annotations

import hashlib
from importlib import resources


def script(name: str) -> str:
    """Return the text of `lua/{name}.lua`; its head states keys, arguments and replies."""
    return resources.files("tasks").joinpath("lua", f"{name}.lua").read_text("utf-8")


def digest(text: str) -> str:
    """Return the name by which EVALSHA asks for a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
