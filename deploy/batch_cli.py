"""The options and help of `celerity batch`; what its commands do is in `deploy.batch`, imported when one runs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.errors import CommandError
from deploy.options import CommandGroup, json_option, settings_with, state_dir_option, wait_option

if TYPE_CHECKING:
    from deploy.batch_client import BatchClient
    from tasks.settings import Settings


class _BatchGroup(CommandGroup):
    """1 is that of a batch some of whose lines failed."""

    exit_code = 2


@click.group(cls=_BatchGroup)
def batch() -> None:
    """Hand in files of requests, and fetch the results.

    The exit code is 0 when every line is done, 1 when some are not, and 2 when the command
    could not do what it was asked to.
    """


def _of_gateway(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the settings and a client of the gateway, by the options that say which."""

    @click.option("--url", envvar="CELERITY_URL", help="The gateway. [CELERITY_URL; the one that runs here]")
    @click.option("--key", envvar="CELERITY_API_KEY", help="An API key. [CELERITY_API_KEY]")
    @state_dir_option
    @functools.wraps(command)
    def with_client(url: str | None, key: str | None, state_dir: Path | None, **options: Any) -> None:
        settings = settings_with(state_dir=state_dir)
        command(_client(settings, url, key), settings, **options)

    return with_client


_force = click.option("--force", is_flag=True, help="Overwrite files that are there already.")


@batch.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--endpoint",
    type=click.Choice(["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]),
    help="What the lines are for. [told by the first line]",
)
@click.option("--model", help="Which model answers plain prompts, and bodies that name none.")
@wait_option
@click.option("--output", type=click.Path(path_type=Path), help="Fetch the results to this file at the end.")
@_force
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Kept with the batch; can be given again.")
@json_option
@_of_gateway
def submit(
    client: BatchClient, settings: Settings, *, metadata: tuple[str, ...], output: Path | None, wait: bool, **given: Any
) -> None:
    """Hand in FILE and watch it until it has ended.

    Its lines are requests as OpenAI's Batch API has them, or bodies of requests, or plain
    prompts, one a line; what is missing is added on the way. Ctrl-C ends the watching only.
    """
    from deploy import batch as commands  # noqa: PLC0415
    from deploy.batch_input import Limits  # noqa: PLC0415

    if output is not None and not wait:
        raise CommandError("--output is for the end, which --no-wait does not wait for; use `celerity batch download`")
    limits = Limits(lines=settings.batch_max_lines, size=settings.max_file_bytes)
    order = commands.Order(output=output, wait=wait, metadata=_pairs(metadata), limits=limits, **given)
    sys.exit(commands.submit(client, order))


@batch.command()
@click.argument("batch_id", metavar="[ID]", required=False)
@click.option("--watch", is_flag=True, help="Go on showing it: one batch until it has ended, all until Ctrl-C.")
@json_option
@_of_gateway
def status(client: BatchClient, _settings: Settings, *, batch_id: str | None, watch: bool, as_json: bool) -> None:
    """Show how the batch ID stands, or the latest twenty."""
    from deploy import batch as commands  # noqa: PLC0415

    if batch_id is None:
        commands.overview(client, watch=watch, as_json=as_json)
    else:
        sys.exit(commands.status(client, batch_id, watch=watch, as_json=as_json))


@batch.command()
@click.argument("batch_id", metavar="ID")
@json_option
@_of_gateway
def cancel(client: BatchClient, _settings: Settings, *, batch_id: str, as_json: bool) -> None:
    """End the batch ID, and wait until it has ended. What is done can be fetched."""
    from deploy import batch as commands  # noqa: PLC0415

    sys.exit(commands.cancel(client, batch_id, as_json=as_json))


@batch.command()
@click.argument("batch_id", metavar="ID")
@click.option("--output", type=click.Path(path_type=Path), help="Where the results go. [ID.jsonl]")
@click.option("--errors", type=click.Path(path_type=Path), help="Where lines that failed go. [ID.errors.jsonl]")
@_force
@_of_gateway
def download(
    client: BatchClient,
    _settings: Settings,
    *,
    batch_id: str,
    output: Path | None,
    errors: Path | None,
    force: bool,
) -> None:
    """Fetch the results of ID, also when it was cancelled or has expired."""
    from deploy import batch as commands  # noqa: PLC0415

    sys.exit(commands.download(client, batch_id, output, errors, force=force))


def _client(settings: Settings, url: str | None, key: str | None) -> BatchClient:
    from deploy.batch_client import BatchClient  # noqa: PLC0415
    from deploy.chat import local_url  # noqa: PLC0415
    from deploy.gateway_http import Address  # noqa: PLC0415

    return BatchClient(Address(url or local_url(settings), key))


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [(name, value) for name, sign, value in (text.partition("=") for text in given) if name and sign]
    if len(pairs) != len(given):
        raise CommandError("--metadata takes KEY=VALUE, such as --metadata run=7")
    return dict(pairs)
