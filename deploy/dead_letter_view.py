"""`celerity deadletter`: what was given up after workers had died of it, and another try."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
import redis
from rich.console import Console
from rich.table import Table

from deploy import preflight, status_view
from deploy.errors import CommandError
from tasks.connections import command_client
from tasks.requests.dead_letters import DeadLetter, DeadLetters
from tasks.requests.request_store import Queued
from tasks.settings import Settings


def show_all(settings: Settings, *, as_json: bool) -> None:
    """Print one line a request, without anything that its client wrote."""
    with _letters(settings) as letters:
        found = [_summary(letter) for letter in letters.all()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("no dead letters")
    else:
        table = Table(box=None)
        # Whole, since it is what `show` and `replay` want to be given.
        table.add_column("request", no_wrap=True, min_width=max(len(one["id"]) for one in found))
        for title in ("model", "caller", "given up at", "deaths", "reason"):
            table.add_column(title)
        for one in found:
            table.add_row(one["id"], one["model"], one["caller"], one["died_at"], str(one["deaths"]), one["reason"])
        Console().print(table)


def show(settings: Settings, request_id: str, *, as_json: bool) -> None:
    """Print one request with its body and what it had produced. Raises CommandError when there is none."""
    with _letters(settings) as letters:
        letter = _get(letters, request_id)
    said = {"body": _text(letter.call.body), "produced": _text(letter.produced)}
    if as_json:
        click.echo(json.dumps(_summary(letter) | said, indent=2))
        return
    for name, value in _summary(letter).items():
        click.echo(f"{name}: {value}")
    for name, text in said.items():
        click.echo(f"\n{name}:\n{text}")


def replay(settings: Settings, request_id: str, *, as_json: bool) -> None:
    """Queue the request again and print its new id. Raises CommandError when it is not accepted."""
    new_id = f"req_{secrets.token_hex(16)}"
    models = status_view.where(settings)[1]
    spec_of = preflight.load_registry(models, settings.models_dir).resolve
    with _letters(settings) as letters:
        letter = _get(letters, request_id)
        spec = spec_of(letter.call.model)
        if spec is None:
            raise CommandError(f"{request_id} was for the model {letter.call.model!r}, which {models} does not have")
        admitted = letters.replay(letter, new_id=new_id, max_depth=spec.queue.max_depth)
    if not isinstance(admitted, Queued):
        raise CommandError(f"too many requests wait for {letter.call.model} already; try again later")
    click.echo(json.dumps({"id": new_id, "replayed": request_id}) if as_json else new_id)


@contextlib.contextmanager
def _letters(settings: Settings) -> Iterator[DeadLetters]:
    client = command_client(status_view.where(settings)[0])
    try:
        yield DeadLetters(client)
    except (redis.RedisError, OSError) as error:
        raise CommandError(f"Redis does not answer: {type(error).__name__}; is `celerity up` still starting?") from None
    finally:
        client.close()


def _get(letters: DeadLetters, request_id: str) -> DeadLetter:
    letter = letters.get(request_id)
    if letter is None:
        raise CommandError(f"there is no dead letter {request_id}; `celerity deadletter list` shows those there are")
    return letter


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.call.id,
        "model": letter.call.model,
        "endpoint": letter.call.endpoint.value,
        "caller": letter.call.caller,
        "died_at": datetime.fromtimestamp(letter.died_at, UTC).isoformat(timespec="milliseconds"),
        "deaths": letter.deaths,
        "reason": letter.reason,
    }


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
