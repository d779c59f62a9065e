"""Lines at which a test can have a process die, as if it had been killed just there. Nothing else sets the variable."""

from __future__ import annotations

import os
from typing import Literal

Point = Literal[
    "loader_decided",  # nothing is written yet, and the lock is held
    "loader_ordered",  # and nobody was woken
    "loader_woke",  # and nothing of it is remembered
    "loader_told",  # and when models were used is not remembered
    "agent_launched",
    "agent_terminated",
    "agent_counted",  # it has noted how a replica ended
    "agent_reaped",  # and has given back what the replica held
    "agent_struck",  # and has struck out its order
]

EXIT_CODE = 70


def failpoint(name: Point, *, when: bool = True) -> None:
    """Die here if `CELERITY_FAILPOINT` names this point."""
    if when and os.environ.get("CELERITY_FAILPOINT") == name:
        os._exit(EXIT_CODE)
