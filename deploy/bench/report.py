"""How a run is shown: a line while it goes on, a table in the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

# Above it, a wait of the client's own is in what it measures.
_TOO_BUSY = 0.8


@contextlib.contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Give what shows how far a run is: on a terminal, on stderr, and only when it is called."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=None)

        def tell(text: str) -> None:
            progress.update(task, description=text)
            progress.refresh()

        yield tell


def show(results: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(_head(results), markup=False)
    console.print(_times(results))
    for line in _lines(results):
        console.print(line, markup=False)


def warnings(results: dict[str, Any]) -> list[str]:
    """Say what makes the figures worth less than they look."""
    found = []
    if results["client_busy"] > _TOO_BUSY:
        found.append(
            f"the client itself took {results['client_busy']:.0%} of a core, so that it measured itself: "
            "ask with less concurrency, or from several machines"
        )
    if results["errors"]:
        found.append(f"{sum(results['errors'].values()):,} requests failed; the times are those of the others")
    if not results["requests"]:
        found.append("no answer ended well")
    return found


def _head(results: dict[str, Any]) -> str:
    how = f"{results['rate']:g} requests/s by chance" if results["rate"] else f"{results['concurrency']} at once"
    kind = "streamed" if results["stream"] else "whole"
    return f"{results['model']} at {results['url']}: {kind} answers of {results['tokens']} tokens, {how}"


def _times(results: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("ms", "p50", "p95", "p99", "mean"):
        table.add_column(name, justify="left" if name == "ms" else "right")
    named = {"to the first token": "ttft_ms", "between tokens": "gap_ms", "to the end": "e2e_ms"}
    for name, key in named.items():
        if (times := results[key]) is not None:
            table.add_row(name, *(f"{times[of]:,.2f}" for of in ("p50", "p95", "p99", "mean")))
    return table


def _lines(results: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{results['requests_per_s']:,.1f} answers/s, {results['tokens_per_s']:,.0f} tokens/s, "
        f"{results['bytes'] / 2**20:,.1f} MiB, in {results['wall_s']:,.1f} s"
    )
    yield f"{results['requests']:,} answers timed; the client took {results['client_busy']:.0%} of a core"
    if results["longest_gap_ms"] is not None:
        yield f"longest wait between two tokens: {results['longest_gap_ms']:,.1f} ms"
    for kind, count in sorted(results["errors"].items(), key=lambda it: -it[1]):
        yield f"{count:,} × {kind}"
