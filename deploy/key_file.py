"""`celerity keys`: what a person does with the file of API keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from deploy.errors import CommandError
from webapp import api_keys
from webapp.api_keys import Priorities, Role


def add(path: Path, name: str, role: str, priorities: str) -> None:
    """Print the key alone on stdout, so that it can be piped, and everything else on stderr."""
    with _readable():
        key = api_keys.add(path, name, Role(role), Priorities(priorities))
    whose = f"{name}, an operator" if role == Role.OPERATOR else name
    click.echo(f"Key for {whose}, shown this once; {path} keeps only its hash:", err=True)
    click.echo(key)
    if not _is_in_use(path):
        click.echo(f"For the gateway to ask for it, start it with CELERITY_API_KEYS_FILE={path.absolute()}", err=True)


def show(path: Path) -> None:
    with _readable():
        if not path.exists():
            raise CommandError(f"{path} does not exist; make it with `celerity keys add NAME`")
        entries = api_keys.read(path)
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        rights = f"{entry.role.value:<8}  {entry.priorities.value:<11}"
        click.echo(f"{entry.name:<{width}}  {rights}  made {entry.created}")


def remove(path: Path, name: str) -> None:
    with _readable():
        api_keys.remove(path, name)
    click.echo(f"The key of {name} is no longer valid.", err=True)


def _is_in_use(path: Path) -> bool:
    named = os.environ.get("CELERITY_API_KEYS_FILE")
    return bool(named) and Path(named or "").absolute() == path.absolute()


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (api_keys.KeyFileError, OSError) as error:
        raise CommandError(str(error)) from None
