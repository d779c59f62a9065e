"""`celerity load`, `unload` and `loader`: give an order, then watch what the loader makes of it.

What a look at the model means is decided by pure functions; the order stands however the
watching ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import click

from deploy import preflight, status_view
from deploy.errors import CommandError
from deploy.load_display import display
from tasks.errors import ModelNotFoundError, ServingError
from tasks.loader.operations import Look, Operations, Ordered
from tasks.settings import Settings
from workers.placement.actions import Outlook
from workers.registry import Registry

_LOOK_EVERY_S = 0.25
# What `timeout` and shells say of a command that Ctrl-C ended.
_INTERRUPTED = 130

_HOPELESS = {Outlook.FAILED, Outlook.CANNOT_RUN, Outlook.NO_CAPACITY, Outlook.SWITCHED_OFF}

_STANDS = ". The order stands: it is loaded once there is room; `celerity unload` takes the order back"


@dataclass(frozen=True, slots=True)
class End:
    """How an order came out."""

    well: bool
    text: str


_T = TypeVar("_T")
Judge = Callable[[Look], End | None]


def load(settings: Settings, name: str, *, wait: bool) -> None:
    """Raises CommandError when the model does not become ready, with the reason."""
    with _operations(settings) as (operations, registry):
        ordered = _given(lambda: operations.load(registry, name), name)
        if not wait:
            click.echo(f"{ordered.model}: ordered. {ordered.note}")
            return
        _watch(operations, registry, ordered, load_end)


def unload(settings: Settings, name: str, *, wait: bool) -> None:
    """Raises CommandError when the model stays."""
    with _operations(settings) as (operations, registry):
        ordered = _given(lambda: operations.unload(registry, name), name)
        click.echo(f"{ordered.model}: ordered. {ordered.note}")
        if wait:
            _watch(operations, registry, ordered, unload_end)


def switch(settings: Settings, *, automatic: bool) -> None:
    with _operations(settings) as (operations, _):
        _reached(lambda: operations.switch(automatic=automatic))
    if automatic:
        click.echo("The loader places, moves and unloads models by itself again.")
    else:
        click.echo("The loader does nothing by itself any more; `celerity load` and `celerity unload` still work.")


def load_end(look: Look) -> End | None:
    """Say how a load came out; None while it may still come out either way.

    1. It is ready: whoever brought that about.
    2. Nothing else counts before the loader has seen the order.
    3. It failed for good, or nobody may be moved for it.
    4. Nothing is under way for it, and the order is gone: it was taken back, or came true and was undone.
    """
    entry = look.entry
    if entry["state"] == "ready":
        return End(True, "is ready")
    if not look.seen:
        return None
    failures = entry["failures"]
    if entry["outlook"] in _HOPELESS:
        stands = _STANDS if entry["outlook"] == Outlook.NO_CAPACITY else ""
        return End(False, f"{entry['reason']}{stands}")
    if failures is not None and failures["given_up"] and not entry["replicas"]:
        return End(False, str(failures["reason"]))
    if entry["wish"] != "load" and entry["state"] not in ("loading", "sleeping") and entry["outlook"] is None:
        return End(False, "the order was taken back, or carried out and undone; see `celerity status`")
    return None


def unload_end(look: Look) -> End | None:
    """Say how an unload came out; None while replicas are still on their way out."""
    if not look.entry["replicas"]:
        return End(True, "is unloaded")
    if look.seen and look.entry["wish"] != "unload":
        return End(False, "it stays: there are requests for it, or somebody has ordered it loaded")
    return None


def _watch(operations: Operations, registry: Registry, ordered: Ordered, judge: Judge) -> None:
    began = time.monotonic()
    try:
        with display(ordered.model) as show:
            while True:
                look = _reached(lambda: operations.look(registry, ordered.model, ordered.at))
                if (end := judge(look)) is not None:
                    break
                show(look, time.monotonic() - began)
                time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        click.echo("\nNo longer watching; the order stands. `celerity status` says how far it is.", err=True)
        raise SystemExit(_INTERRUPTED) from None
    if not end.well:
        raise CommandError(f"{ordered.model}: {end.text}")
    click.echo(f"{ordered.model} {end.text} ({time.monotonic() - began:.1f} s)")


@contextlib.contextmanager
def _operations(settings: Settings) -> Iterator[tuple[Operations, Registry]]:
    url, models = status_view.where(settings)
    operations = Operations.over(url)
    try:
        yield operations, preflight.load_registry(models, settings.models_dir)
    finally:
        operations.close()


def _given(order: Callable[[], Ordered], name: str) -> Ordered:
    try:
        return _reached(order)
    except ModelNotFoundError:
        raise CommandError(f"there is no model or alias {name!r}; `celerity status` shows those there are") from None


def _reached(command: Callable[[], _T]) -> _T:
    try:
        return command()
    except ModelNotFoundError:
        raise
    except ServingError:
        raise CommandError("Redis does not answer; is `celerity up` still starting?") from None
