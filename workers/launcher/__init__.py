"""What starts and stops worker processes: the protocols, and the launchers of replicas, chosen by name.

Imports nothing that takes time: every process that is launched begins here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.launcher.base import Launcher
    from workers.launcher.site import Site

LAUNCHERS = {
    "process": "workers.launcher.detached:DetachedLauncher",
    "docker": "workers.launcher.docker:DockerLauncher",
}


def create(site: Site) -> Launcher:
    """Build the launcher that `site` names. Raises KeyError when there is none, ImportError without its library."""
    module, _, cls = LAUNCHERS[site.launcher].partition(":")
    launcher: Launcher = getattr(importlib.import_module(module), cls)(site)
    return launcher
