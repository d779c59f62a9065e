"""How every process of ours logs."""

from __future__ import annotations

import logging


def configure(level: str) -> None:
    """Log to standard error, one line an event."""
    logging.basicConfig(level=level)
