"""`celerity batch`: hand in a file of requests, watch what becomes of it, and fetch the results.

It does nothing that any client of OpenAI's Batch API could not. The batch goes on however
the watching ends.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.live import Live

from deploy import batch_input, batch_view
from deploy.batch_client import BatchClient, refuse_to_overwrite
from deploy.batch_display import Display, counted, transferring, watching
from deploy.batch_facts import BatchFacts
from deploy.errors import CommandError
from deploy.gateway_http import UnreachableError
from tasks.bulk.records import BatchStatus

_LOOK_EVERY_S = 0.5
_LIST_EVERY_S = 2.0
_TRY_EVERY_S = 1.0
_SHOWN = 20
_FIRST_ERRORS = 3
# What `timeout` and shells say of a command that Ctrl-C ended.
_INTERRUPTED = 130

WELL, PARTLY, NOT_DONE = 0, 1, 2

_T = TypeVar("_T")
Pause = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Where the results of a batch go on this machine."""

    output: Path
    errors: Path
    force: bool = False

    def refuse_to_overwrite(self) -> None:
        if not self.force:
            refuse_to_overwrite(self.output, self.errors)


def results(batch_id: str, output: Path | None, errors: Path | None, *, force: bool) -> Results:
    """Return where results go: beside each other, named by the batch where nothing else was said."""
    output = output or Path(f"{batch_id}.jsonl")
    errors = errors or output.with_name(f"{output.stem}.errors{output.suffix}")
    if output == errors:
        raise CommandError(f"results and errors cannot both go to {output}")
    return Results(output=output, errors=errors, force=force)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `submit` was told."""

    path: Path
    endpoint: str | None = None
    model: str | None = None
    output: Path | None = None
    force: bool = False
    metadata: Mapping[str, str]
    limits: batch_input.Limits
    wait: bool = True
    as_json: bool = False


def submit(client: BatchClient, order: Order, *, pause: Pause = time.sleep) -> int:
    """Hand the file in, and see it through when that is wanted. Return the exit code; raises CommandError."""
    kept = results("", order.output, None, force=order.force) if order.output is not None else None
    if kept is not None:
        kept.refuse_to_overwrite()
    given = batch_input.look_through(order.path, endpoint=order.endpoint, model=order.model, limits=order.limits)
    facts = _hand_in(client, given, order.metadata)
    click.echo(
        f"{facts.id}: {batch_view.lines_of(given.lines)} ({given.shape}) of {order.path.name} for {given.endpoint}",
        err=order.as_json or order.wait,
    )
    if not order.wait:
        _say(facts, [f"see how far it is: celerity batch status {facts.id} --watch"], as_json=order.as_json)
        return WELL
    return _see_through(client, facts, kept, as_json=order.as_json, pause=pause)


def status(client: BatchClient, batch_id: str, *, watch: bool, as_json: bool, pause: Pause = time.sleep) -> int:
    """Show one batch. With `watch`, until it has ended; the exit code is then that of `submit`."""
    facts = client.batch(batch_id)
    if watch and not facts.ended:
        return _see_through(client, facts, None, as_json=as_json, pause=pause)
    lines = _ending(client, facts) if facts.ended else batch_view.standing(facts, time.time())
    _say(facts, lines, as_json=as_json)
    return exit_code(facts) if watch else WELL


def overview(client: BatchClient, *, watch: bool, as_json: bool, pause: Pause = time.sleep) -> None:
    """Show the latest batches; with `watch`, again and again until Ctrl-C."""
    found = client.latest(_SHOWN)
    if not watch:
        _show_all(found, as_json=as_json)
        return
    try:
        _keep_showing(client, found, as_json=as_json, pause=pause)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


def cancel(client: BatchClient, batch_id: str, *, as_json: bool, pause: Pause = time.sleep) -> int:
    """End a batch, and wait until it has ended. Lines that are done stay done."""
    facts = _watch(client, client.cancel(batch_id), pause)
    _say(facts, _ending(client, facts), as_json=as_json)
    return WELL if facts.status is BatchStatus.CANCELLED else NOT_DONE


def download(client: BatchClient, batch_id: str, output: Path | None, errors: Path | None, *, force: bool) -> int:
    """Fetch what a batch that has ended left behind. Raises CommandError when it goes on."""
    facts = client.batch(batch_id)
    if not facts.ended:
        said = batch_view.standing(facts, time.time())
        raise CommandError("\n".join([*said, "its results can be fetched once it has ended"]))
    kept = results(facts.id, output, errors, force=force)
    for line in _fetch(client, facts, kept):
        click.echo(line)
    return exit_code(facts)


def exit_code(facts: BatchFacts) -> int:
    """0: every line is done; 1: some are not; 2: it never began."""
    if facts.status is BatchStatus.FAILED:
        return NOT_DONE
    return WELL if facts.status is BatchStatus.COMPLETED and not facts.failed else PARTLY


def patiently(ask: Callable[[], _T], say: Callable[[str], None], pause: Pause) -> _T:
    """Ask until there is an answer, however long the gateway is away; that it is, is said once."""
    away = False
    while True:
        try:
            found = ask()
        except UnreachableError as error:
            if not away:
                say(f"{error}; trying on. What was submitted is not lost")
            away = True
            pause(_TRY_EVERY_S)
        else:
            if away:
                say("the gateway answers again")
            return found


def _hand_in(client: BatchClient, given: batch_input.BatchInput, metadata: Mapping[str, str]) -> BatchFacts:
    what = f"uploading {given.path.name}"
    try:
        with transferring(what, given.size) as tell:
            file_id = client.upload(given.path.name, given.size, counted(given.blocks(), tell, given.size))
    except KeyboardInterrupt:
        click.echo("\nNothing was submitted.", err=True)
        raise SystemExit(_INTERRUPTED) from None
    try:
        return client.create(file_id, given.endpoint, metadata)
    except UnreachableError as error:
        raise CommandError(
            f"{error}. {given.path} was uploaded ({file_id}); whether it became a batch, `celerity batch status` says"
        ) from None
    except CommandError:
        # Nobody would know of it, and it would stay there.
        with contextlib.suppress(CommandError):
            client.delete_file(file_id)
        raise


def _see_through(client: BatchClient, facts: BatchFacts, kept: Results | None, *, as_json: bool, pause: Pause) -> int:
    ended = _watch(client, facts, pause)
    fetched = []
    if kept is not None:
        # The batch may have taken hours; a gateway that restarts just now must not cost its results.
        fetched = patiently(lambda: _fetch(client, ended, kept), _tell, pause)
    _say(ended, [*_ending(client, ended, told=bool(fetched)), *fetched], as_json=as_json)
    return exit_code(ended)


def _watch(client: BatchClient, facts: BatchFacts, pause: Pause) -> BatchFacts:
    try:
        with watching(facts.id) as display:
            return _until_ended(client, facts, display, pause)
    except KeyboardInterrupt:
        click.echo(
            f"\nNo longer watching; {facts.id} goes on. Watch it again: celerity batch status {facts.id} --watch\n"
            f"End it: celerity batch cancel {facts.id}",
            err=True,
        )
        raise SystemExit(_INTERRUPTED) from None


def _until_ended(client: BatchClient, facts: BatchFacts, display: Display, pause: Pause) -> BatchFacts:
    batch_id = facts.id
    while True:
        display.look(facts, time.monotonic())
        if facts.ended:
            return facts
        pause(_LOOK_EVERY_S)
        facts = patiently(lambda: client.batch(batch_id), display.say, pause)


def _ending(client: BatchClient, facts: BatchFacts, *, told: bool = False) -> list[str]:
    """Say how a batch ended, and where its results are unless that is `told`."""
    lines = batch_view.summary(facts)
    if facts.error_file is not None:
        lines += ["the first errors:", *_first_errors(client, facts.error_file)]
    if not told and (facts.output_file is not None or facts.error_file is not None):
        lines.append(f"fetch the results: celerity batch download {facts.id}")
    return lines


def _first_errors(client: BatchClient, file_id: str) -> list[str]:
    try:
        return [f"  {batch_view.error_of_line(line)}" for line in client.first_lines(file_id, _FIRST_ERRORS)]
    except CommandError as error:
        return [f"  {error}"]  # the file has been deleted, or has expired


def _fetch(client: BatchClient, facts: BatchFacts, kept: Results) -> list[str]:
    """Fetch what there is, and say where it went."""
    wanted = [
        (name, file_id, path)
        for name, file_id, path in (
            ("results", facts.output_file, kept.output),
            ("errors", facts.error_file, kept.errors),
        )
        if file_id is not None
    ]
    if not kept.force:
        refuse_to_overwrite(*(path for _, _, path in wanted))
    for name, file_id, path in wanted:
        with transferring(f"fetching {name}", None) as tell:
            client.save(file_id, path, force=kept.force, tell=tell)
    return [f"{name} in {path}" for name, _, path in wanted] or ["it left no results behind"]


def _say(facts: BatchFacts, lines: list[str], *, as_json: bool) -> None:
    click.echo(json.dumps(facts.document, indent=2) if as_json else "\n".join(lines))


def _keep_showing(client: BatchClient, found: list[BatchFacts], *, as_json: bool, pause: Pause) -> None:
    moving = Console().is_terminal and not as_json
    with Live(auto_refresh=False) if moving else contextlib.nullcontext() as live:
        shown = None
        while True:
            if live is not None:
                live.update(batch_view.table(found, time.time()), refresh=True)
            elif found != shown:
                _show_all(found, as_json=as_json)
            shown = found
            pause(_LIST_EVERY_S)
            found = patiently(lambda: client.latest(_SHOWN), _tell, pause)


def _show_all(found: list[BatchFacts], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([facts.document for facts in found], indent=2))
    elif found:
        Console().print(batch_view.table(found, time.time()))
    else:
        click.echo("no batches; `celerity batch submit FILE` makes one")


def _tell(text: str) -> None:
    click.echo(text, err=True)
