"""How `celerity batch` shows what is under way: bars on a terminal, else now and then a line. On stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from deploy.batch_facts import BatchFacts, Pace, Rates
from deploy.batch_view import spoken
from tasks.bulk.records import BatchStatus

_REPEAT_S = 60.0
_STEP_PERCENT = 10


class Display(Protocol):
    def look(self, facts: BatchFacts, now: float) -> None:
        """Show a look at the batch; `now` in seconds of any steady clock."""
        ...

    def say(self, text: str) -> None:
        """Show a sentence that stays."""
        ...


@contextlib.contextmanager
def watching(batch_id: str) -> Iterator[Display]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(batch_id)
        return
    # What it says fits 80 columns; the bar has the rest.
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress)


@contextlib.contextmanager
def transferring(what: str, size: int | None) -> Iterator[Callable[[int, int | None], None]]:
    """Give the function that shows how many bytes have gone, of how many."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda gone, of: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=size)
        yield lambda gone, of: progress.update(task, completed=gone, total=of)


def counted(content: Iterator[bytes], tell: Callable[[int, int | None], None], size: int) -> Iterator[bytes]:
    """Yield `content`, and tell how much of it has been taken."""
    gone = 0
    for block in content:
        yield block
        gone += len(block)
        tell(gone, size)


def doing(facts: BatchFacts, rates: Rates | None) -> str:
    """Say in a line how far it is."""
    parts = [f"{facts.done:,}/{facts.total:,}"]
    if facts.failed:
        parts.append(f"{facts.failed:,} failed")
    if rates is not None and facts.status is BatchStatus.IN_PROGRESS:
        parts.append(f"{_figure(rates.lines_per_s)} lines/s, {_figure(rates.tokens_per_s)} tokens/s")
        parts.append(f"{spoken((facts.total - facts.finished) / rates.lines_per_s)} left")
    return ", ".join(parts)


def _percent(facts: BatchFacts) -> str:
    return f"{facts.finished * 100 // max(1, facts.total):>3} %"


def _figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._pace = Pace()
        self._task = progress.add_task("", total=None, pace="")

    def look(self, facts: BatchFacts, now: float) -> None:
        rates = self._pace.look(facts, now)
        # Without a total the bar moves to and fro.
        self._progress.update(
            self._task,
            description=_percent(facts) if facts.status is BatchStatus.IN_PROGRESS else facts.status,
            total=facts.total or None,
            completed=facts.finished,
            pace=doing(facts, rates) if facts.total else "",
        )

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)


class Lines:
    """Tells what changes, every tenth of the way, and now and then what repeats itself."""

    def __init__(self, batch_id: str) -> None:
        self._id = batch_id
        self._pace = Pace()
        self._told: tuple[object, ...] = ()
        self._told_at = 0.0

    def look(self, facts: BatchFacts, now: float) -> None:
        rates = self._pace.look(facts, now)
        news = (facts.status, facts.finished * 100 // max(1, facts.total) // _STEP_PERCENT)
        if news == self._told and now - self._told_at < _REPEAT_S:
            return
        self._told, self._told_at = news, now
        far = f", {doing(facts, rates)}" if facts.total else ""
        self.say(f"{self._id}: {facts.status.replace('_', ' ')}{far}")

    def say(self, text: str) -> None:
        click.echo(text, err=True)
