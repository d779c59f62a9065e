"""How `celerity load` shows a load that is under way: a bar on a terminal, else a line whenever something is new."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.status_view import loader_is_late
from tasks.loader.operations import Look

_REPEAT_S = 15.0
_STEP_PERCENT = 25
_HELD = "; the loader is off, so nothing is moved for it (`celerity loader on`)"

Show = Callable[[Look, float], None]


@contextlib.contextmanager
def display(model: str) -> Iterator[Show]:
    """Give the function that shows one look, `elapsed_s` after the order."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(model).show
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[percent]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(model, total=None, percent="")

        def show(look: Look, elapsed_s: float) -> None:
            done = look.entry["progress_percent"]
            # Without a figure the bar moves to and fro.
            bar.update(
                task,
                description=f"{model}: {doing(look)}",
                total=None if done is None else 100,
                completed=done or 0,
                percent="" if done is None else f"{done} %",
            )

        yield show


def doing(look: Look) -> str:
    """Say in a few words what happens with the model."""
    entry = look.entry
    if (late := loader_is_late(look.loader["last_run_age_s"])) is not None:
        return late
    if not look.seen:
        return "waiting for the loader"
    if entry["wish"] == "unload":
        busy = sum(replica["in_flight"] for replica in entry["replicas"])
        return f"finishing {busy} requests" if busy else "its replicas are ending"
    if entry["reason"] is None:
        return str(entry["state"])
    held = "" if look.loader["automatic"] or entry["state"] == "loading" else _HELD
    return f"{entry['reason']}{held}"


class _Lines:
    """Tells what changes; what repeats itself now and then."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._told: tuple[object, ...] = ()
        self._told_at = 0.0

    def show(self, look: Look, elapsed_s: float) -> None:
        entry, late = look.entry, loader_is_late(look.loader["last_run_age_s"]) is not None
        done = entry["progress_percent"] if look.seen else None
        failed = entry["failures"]["count"] if entry["failures"] else 0
        # Not the words, which count the seconds.
        news = (late, look.seen, entry["state"], entry["outlook"], failed, (done or 0) // _STEP_PERCENT)
        if news == self._told and elapsed_s - self._told_at < _REPEAT_S:
            return
        self._told, self._told_at = news, elapsed_s
        click.echo(f"{self._model}: {doing(look)}{'' if done is None else f', {done} %'} ({elapsed_s:.0f} s)", err=True)
