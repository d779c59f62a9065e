"""gunicorn's settings for a gateway that neither pulses nor looks after anything; see `unguarded`."""

from __future__ import annotations

import runpy
from typing import Any

from tests.stack import GATEWAY_CONFIG

globals().update({name: value for name, value in runpy.run_path(str(GATEWAY_CONFIG)).items() if name[0] != "_"})
_initialise = globals().get("post_worker_init")


def post_worker_init(worker: Any) -> None:
    from tasks.gateway.gateway_watch import GatewayWatch

    GatewayWatch._turn = GatewayWatch._refresh  # type: ignore[method-assign]
    if _initialise is not None:
        _initialise(worker)
