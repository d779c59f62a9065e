"""One request before a load, so that what is wrong with all of them is said once and in the server's own words."""

from __future__ import annotations

import contextlib
import dataclasses
import json

from deploy.bench.plan import Plan
from deploy.chat import Gateway
from deploy.errors import CommandError
from deploy.gateway_http import Address, blocks


def model_at(address: Address, model: str | None) -> str:
    """Return `model`, or the first that is served there. Raises CommandError where that is none."""
    if model is not None:
        return model
    models = _models(address)
    if not models:
        raise CommandError(f"{address.url} serves no model")
    return models[0]


def attempt(plan: Plan, address: Address) -> None:
    """Have one token of what `plan` asks, which also loads a model that is not loaded. Raises CommandError."""
    body = dataclasses.replace(plan, tokens=1).body()
    headers = {"Content-Type": "application/json"}
    try:
        with address.request("POST", plan.endpoint.path, json.dumps(body).encode(), headers) as response:
            for _ in blocks(response):
                pass
    except CommandError as error:
        raise CommandError(f"{error}{_instead(address, plan.model)}") from None


def _instead(address: Address, model: str) -> str:
    """Say what else could be asked, where a server does not name `model` among what it has."""
    with contextlib.suppress(CommandError):
        if (models := _models(address)) and model not in models:
            return f"; {address.url} serves {', '.join(models)}"
    return ""


def _models(address: Address) -> list[str]:
    return Gateway(address.url, address.key).models()
