"""One request before a load, so that what is wrong with all of them is said once and in the server's own words."""

from __future__ import annotations

import contextlib
import dataclasses
import json

from deploy.bench.plan import Plan
from deploy.chat import Gateway
from deploy.errors import CommandError
from deploy.gateway_http import Address, blocks


def models_at(address: Address, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return those `asked` for, else the first that is served there. Raises CommandError where that is none."""
    if asked:
        return asked
    models = _models(address)
    if not models:
        raise CommandError(f"{address.url} serves no model")
    return (models[0],)


def attempt(plan: Plan, address: Address) -> None:
    """Have one token of each model, which also loads those that are not loaded. Raises CommandError."""
    one = dataclasses.replace(plan, tokens=1)
    headers = {"Content-Type": "application/json"}
    for model in plan.models:
        body = json.dumps(one.body(model)).encode()
        try:
            with address.request("POST", plan.endpoint.path, body, headers) as response:
                for _ in blocks(response):
                    pass
        except CommandError as error:
            raise CommandError(f"{error}{_instead(address, model)}") from None


def _instead(address: Address, model: str) -> str:
    """Say what else could be asked, where a server does not name `model` among what it has."""
    with contextlib.suppress(CommandError):
        if (models := _models(address)) and model not in models:
            return f"; {address.url} serves {', '.join(models)}"
    return ""


def _models(address: Address) -> list[str]:
    return Gateway(address.url, address.key).models()
