"""The options and help of `celerity bench`; what it does is in `deploy.bench`, imported when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from deploy.errors import CommandError
from deploy.options import settings_with, state_dir_option

_CONCURRENCY = 8
_SECONDS = 10.0


@click.command()
@click.argument("url", required=False, envvar="CELERITY_URL")
@click.option("--model", "models", multiple=True, help="Which model to ask; several in turn. [the first one there is]")
@click.option("--endpoint", type=click.Choice(["chat", "completion"]), default="chat", help="[chat]")
@click.option("--stream/--no-stream", default=True, help="Answers token by token, or in one piece. [stream]")
@click.option("--tokens", type=click.IntRange(1), default=64, help="The most tokens of an answer. [64]")
@click.option("--ignore-eos", is_flag=True, help="Have answers be as long as that, with servers that know how (vLLM).")
@click.option("--prompt", help="What every request says. [a made text, another one for each]")
@click.option("--prompt-tokens", type=click.IntRange(1), default=16, help="About how long a made text is. [16]")
@click.option(
    "--concurrency", type=click.IntRange(1), help=f"Connections that each ask again when answered. [{_CONCURRENCY}]"
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Instead, so many requests a second that come by chance; --concurrency then limits the connections.",
)
@click.option("--seed", type=int, default=0, help="Of that chance. [0]")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help=f"How long to measure. [{_SECONDS:g}]")
@click.option("--requests", type=click.IntRange(1), help="Or how many requests.")
@click.option("--warmup", "warmup_s", type=click.FloatRange(0), default=1.0, help="Seconds before that. [1]")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), default=120.0, help="Seconds. [120]")
@click.option("--usage/--no-usage", default=True, help="Ask for the number of tokens of each stream, or not. [usage]")
@click.option("--check/--no-check", default=True, help="First ask each model once, in words that explain. [check]")
@click.option(
    "--key-file", type=click.Path(path_type=Path), help="A file with an API key. [CELERITY_API_KEY, OPENAI_API_KEY]"
)
@click.option("--json", "target", metavar="FILE", help="Also write the figures to FILE; - prints them instead.")
@state_dir_option
def bench(
    url: str | None,
    key_file: Path | None,
    target: str | None,
    state_dir: Path | None,
    *,
    models: tuple[str, ...],
    check: bool,
    **given: Any,
) -> None:
    """Measure a server that speaks the OpenAI API at URL, by load.

    Without URL it is the gateway that runs here. Shows the time to the first token, between
    tokens and to the end, and how many answers and tokens come in a second. Ctrl-C ends it
    with what there is; the exit code is 1 when no answer ended well.
    """
    from deploy.bench import command  # noqa: PLC0415
    from deploy.bench.plan import Endpoint, Plan  # noqa: PLC0415
    from deploy.bench.trial import models_at  # noqa: PLC0415
    from deploy.chat import local_url  # noqa: PLC0415
    from deploy.gateway_http import Address  # noqa: PLC0415

    if given["requests"] and given["seconds"]:
        raise CommandError("give --seconds or --requests, not both")
    if not given["requests"]:
        given["seconds"] = given["seconds"] or _SECONDS
    if given["rate"] is None:
        given["concurrency"] = given["concurrency"] or _CONCURRENCY
    address = Address(url or local_url(settings_with(state_dir=state_dir)), command.key_of(key_file))
    endpoint = Endpoint(given.pop("endpoint"))
    plan = Plan(models=models_at(address, models), endpoint=endpoint, **given)
    sys.exit(command.bench(plan, address, target, check=check))
