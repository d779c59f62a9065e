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
from tasks.connections import command_client
from tasks.records import status
from tasks.settings import Settings, embedded_redis_url

# It looks every two seconds, after every order, and four times a minute while nothing goes on.
_LOADER_LATE_S = 25.0
_COLOURS = {
    "ready": "green",
    "healthy": "green",
    "loading": "yellow",
    "sleeping": "cyan",
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


def loader_is_late(last_run_age_s: float | None) -> str | None:
    """Say so when the loader has not looked for longer than it should."""
    if last_run_age_s is not None and last_run_age_s < _LOADER_LATE_S:
        return None
    since = "the last hour" if last_run_age_s is None else f"{last_run_age_s:.0f} s"
    return f"the loader has not run for {since}; do beat and the control worker run?"


def tables(found: dict[str, Any]) -> Group:
    """Return one table a kind of thing, with what has to be said of it below: sentences would widen a column."""
    parts: list[Table | Text | str] = [_models(found["models"]), *_model_notes(found["models"]), ""]
    if found["rollouts"]:
        parts += [_rollouts(found["rollouts"]), ""]
    return Group(*parts, _nodes(found["nodes"]), *_node_notes(found["nodes"]), *_loader(found["loader"]))


def _loader(loader: dict[str, Any]) -> list[Text]:
    """Return what is to be said of the loader: nothing while it does what it should."""
    lines = []
    if not loader["automatic"]:
        text = "the loader is off: models are loaded and unloaded by hand only (`celerity loader on`)"
        lines.append(Text(text, style="yellow"))
    if (late := loader_is_late(loader["last_run_age_s"])) is not None:
        lines.append(Text(late, style="red"))
    return [Text(""), *lines] if lines else []


def _models(models: list[dict[str, Any]]) -> Table:
    table = _table("model", "state", "aliases", "waiting", "replica", "on", "busy", "memory")
    for model in models:
        head: list[str | Text] = [
            f"{model['id']} (pinned)" if model["pinned"] else model["id"],
            _state(model),
            ", ".join(model["aliases"]),
            _waiting(model["queue"]),
        ]
        for replica in model["replicas"] or [None]:
            table.add_row(*head, *_replica(replica))
            head = ["" for _ in head]
    return table


def _model_notes(models: list[dict[str, Any]]) -> list[Text]:
    notes = []
    for model in models:
        if model["reason"] is not None:
            notes.append(Text(f"{model['id']}: {model['reason']}", style=_COLOURS.get(model["state"], "")))
        if model["wish"] is not None:
            notes.append(Text(f"{model['id']}: an operator ordered: {model['wish']}", style="yellow"))
    return notes


def _state(model: dict[str, Any]) -> Text:
    """Say how the model is, such as "loading 40 %"."""
    state = _coloured(model["state"])
    done = model["progress_percent"]
    return state if done is None else state.append(f" {done} %")


def _rollouts(rollouts: list[dict[str, Any]]) -> Table:
    table = _table("rollout", "desired", "previous", "served by")
    for rollout in rollouts:
        serves = rollout["serves"] or Text("nobody", style="yellow")
        table.add_row(rollout["alias"], rollout["desired"], rollout["previous"] or "", serves)
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
    if replica["told"] not in (None, replica["state"]):
        name.append(f", told {replica['told']}", style="yellow")
    if replica.get("rotation", "in") != "in":
        # It keeps failing; as the model's last it serves all the same.
        name.append(" ").append("degraded" if replica["rotation"] == "last" else "resting", style="yellow")
    place = f"{replica['node']}/{replica['device']}"
    return [name, place, str(replica["in_flight"]), f"{replica['memory_mib']:,} MiB"]


def _nodes(nodes: list[dict[str, Any]]) -> Table:
    table = _table("node", "state", "last heard of", "device", "memory", "free", "reserved")
    for node in nodes:
        state = _coloured(node["state"])
        if not node["reliability"]["trusted"]:
            state.append(f", unreliable ({node['reliability']['score']:.2f})", style="yellow")
        head: list[str | Text] = [node["id"], state, f"{node['heartbeat_age_s']:.0f} s ago"]
        for device in node["devices"] or [None]:
            table.add_row(*head, *(_device(device) if device else []))
            head = ["" for _ in head]
    return table


def _node_notes(nodes: list[dict[str, Any]]) -> list[Text]:
    notes = []
    for node in nodes:
        if node["problem"] is not None:
            notes.append(Text(f"{node['id']}: {node['problem']}", style="red"))
        for device in node["devices"]:
            if remark := _remark(device):
                notes.append(Text(f"{node['id']}/{device['id']}: {remark}", style="yellow"))
    return notes


def _device(device: dict[str, Any]) -> list[str]:
    name = f"{device['id']} ({device['name']})" if device["name"] else device["id"]
    return [name, *(_mib(device[key]) for key in ("total_mib", "free_mib", "reserved_mib"))]


def _remark(device: dict[str, Any]) -> str:
    """Say what keeps us from using all of a device."""
    if device["unknown"] is not None:
        return f"not used: {device['unknown']}"
    if device["foreign"] is None:
        return "the driver does not say who uses it"
    if not device["foreign"]:
        return ""
    known = [holder["mib"] for holder in device["foreign"] if holder["mib"] is not None]
    held = f", with {_mib(sum(known))}" if known else ""
    return f"also used by {len(device['foreign'])} processes that are not ours{held}"


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
