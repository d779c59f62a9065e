"""What `celerity bench` does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from deploy.bench import report
from deploy.bench.meter import Meter, results
from deploy.bench.plan import Plan
from deploy.bench.run import run
from deploy.bench.trial import attempt
from deploy.errors import CommandError
from deploy.gateway_http import Address

INTERRUPTED = 130


def bench(plan: Plan, address: Address, target: str | None, *, check: bool) -> int:
    """Run the load, show what came of it, and write it to `target`, "-" for stdout. Return the exit code.

    That is 1 when no answer ended well. With `check` one request goes before, and what refuses that
    one raises a CommandError that explains.
    """
    meter = Meter()
    with report.telling() as tell:
        if check:
            tell("waiting for a first answer")
            attempt(plan, address)
        finished = run(plan, address, meter, tell)
    found = results(plan, address.url, meter)
    if target != "-":
        report.show(found)
    for warning in report.warnings(found):
        click.secho(f"! {warning}", err=True, fg="yellow")
    if target is not None:
        _write(json.dumps(found, indent=2) + "\n", target)
    if not finished:
        return INTERRUPTED
    return 0 if found["requests"] else 1


def key_of(file: Path | None) -> str | None:
    """Return the key in `file`, or in the environment; arguments could be read by others on the machine."""
    if file is None:
        return os.environ.get("CELERITY_API_KEY") or os.environ.get("OPENAI_API_KEY") or None
    try:
        key = file.read_text().strip()
    except (OSError, UnicodeError) as error:
        raise CommandError(f"{file} cannot be read: {error}") from None
    if not key or not key.isascii() or not key.isprintable():
        raise CommandError(f"{file} should hold one API key and nothing else")
    return key


def _write(text: str, target: str) -> None:
    if target == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(target).write_text(text)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror or error}") from None
