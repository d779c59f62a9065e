"""How the launchers of a node are told what the settings say."""

from __future__ import annotations

from tasks.settings import Settings
from workers.launcher.site import Site


def site(settings: Settings) -> Site:
    return Site(
        state_dir=settings.state_dir,
        node=settings.node_id,
        launcher=settings.launcher,
        image=settings.docker_image,
        network=settings.docker_network,
        user=settings.docker_user,
        mounts=tuple(path for path in (settings.docker_mounts or "").split(":") if path),
    )
