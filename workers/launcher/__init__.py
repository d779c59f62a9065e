"""What starts and stops worker processes: one protocol, and the launchers chosen by name."""

from __future__ import annotations

import importlib
from pathlib import Path

from workers.launcher.base import Launcher

LAUNCHERS = {"process": "workers.launcher.process:ProcessLauncher"}


def create(name: str, log_dir: Path) -> Launcher:
    """Build the launcher called `name`. Raises KeyError when there is none, ImportError when its library is missing."""
    module, _, cls = LAUNCHERS[name].partition(":")
    launcher: Launcher = getattr(importlib.import_module(module), cls)(log_dir)
    return launcher
