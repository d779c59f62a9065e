"""`celerity status`: the status document, for scripts or as tables for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import redis
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from deploy import preflight, running
from deploy.errors import CommandError
from tasks import status
from tasks.connections import command_client
from tasks.settings import Settings, embedded_redis_url

_COLOURS = {
    "ready": "green",
    "healthy": "green",
    "loading": "yellow",
    "starting": "yellow",
    "draining": "yellow",
    "failed": "red",
    "dead": "red",
}


def show(settings: Settings, *, as_json: bool) -> None:
    """Print the state of what runs. Raises CommandError when nothing does."""
    found = gather(settings)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        Console().print(tables(found))


def where(settings: Settings) -> tuple[str, Path]:
    """Return the address of Redis and models.yaml; a `celerity up` on the state folder says by itself which it uses.

    Raises CommandError when nothing runs there.
    """
    if settings.redis_url != embedded_redis_url(settings.state_dir):
        return settings.redis_url, settings.models
    up = running.read(settings.state_dir)
    if up is None:
        raise CommandError(
            f"nothing runs here ({settings.state_dir}); start it with `celerity up`, "
            "or name the Redis of another machine with --redis-url"
        )
    return up.redis_url, Path(up.models)


def gather(settings: Settings) -> dict[str, Any]:
    url, models = where(settings)
    client = command_client(url)
    try:
        return status.read(client, preflight.load_registry(models, settings.models_dir))
    except (redis.RedisError, OSError) as error:
        raise CommandError(f"Redis does not answer: {type(error).__name__}; is `celerity up` still starting?") from None
    finally:
        client.close()


def tables(found: dict[str, Any]) -> Group:
    return Group(_models(found["models"]), "", _nodes(found["nodes"]))


def _models(models: list[dict[str, Any]]) -> Table:
    table = _table("model", "state", "aliases", "waiting", "replica", "on", "busy", "memory")
    for model in models:
        head: list[str | Text] = [
            f"{model['id']} (pinned)" if model["pinned"] else model["id"],
            _coloured(model["state"]),
            ", ".join(model["aliases"]),
            _waiting(model["queue"]),
        ]
        for replica in model["replicas"] or [None]:
            table.add_row(*head, *_replica(replica))
            head = ["" for _ in head]
        if "reason" in model:
            table.add_row("", Text(model["reason"], style="red"))
    return table


def _waiting(queue: dict[str, Any]) -> str:
    """Say how many wait, such as "3 +100 bulk, 12 s"."""
    bulk = f" +{queue['bulk']} bulk" if queue["bulk"] else ""
    age = "" if queue["oldest_s"] is None else f", {queue['oldest_s']:.0f} s"
    return f"{queue['interactive']}{bulk}{age}"


def _replica(replica: dict[str, Any] | None) -> list[str | Text]:
    if replica is None:
        return []
    name = Text(replica["id"])
    if replica["state"] != "ready":
        name.append(" ").append_text(_coloured(replica["state"]))
    if replica.get("rotation", "in") != "in":
        # It keeps failing; as the model's last it serves all the same.
        name.append(" ").append("degraded" if replica["rotation"] == "last" else "resting", style="yellow")
    place = f"{replica['node']}/{replica['device']}"
    return [name, place, str(replica["in_flight"]), f"{replica['memory_mib']:,} MiB"]


def _nodes(nodes: list[dict[str, Any]]) -> Table:
    table = _table("node", "state", "last heard of", "device", "memory", "free", "reserved")
    for node in nodes:
        head: list[str | Text] = [node["id"], _coloured(node["state"]), f"{node['heartbeat_age_s']:.0f} s ago"]
        for device in node["devices"] or [None]:
            sizes = [_mib(device[key]) for key in ("total_mib", "free_mib", "reserved_mib")] if device else []
            table.add_row(*head, *([device["id"], *sizes] if device else []))
            head = ["" for _ in head]
    return table


def _mib(amount: int | None) -> str:
    return "unknown" if amount is None else f"{amount:,} MiB"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column in {"busy", "memory", "free", "reserved"}
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    return table


def _coloured(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, ""))
