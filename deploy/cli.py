"""The `celerity` command: its options and help. What a command does is in a module of its own, imported when it runs.

So `celerity --help` answers at once, and a command needs no library that only another uses.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from deploy.batch_cli import batch
from deploy.bench_cli import bench
from deploy.errors import CommandError
from deploy.options import CommandGroup, json_option, settings_with, state_dir_option, wait_option
from tasks.version import VERSION


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="celerity")
def main() -> None:
    """Serve large language models from your own machines."""


_models = click.option(
    "--models", type=click.Path(path_type=Path), help="What to serve. [CELERITY_MODELS; models.yaml]"
)
_redis_url = click.option("--redis-url", help="A Redis to use instead of an own one. [CELERITY_REDIS_URL]")


@main.command()
@click.option("--host", help="The address to listen on. [CELERITY_HOST; 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes a free one. [CELERITY_PORT; 8000]")
@_models
@_redis_url
@state_dir_option
@click.option("--verbose", is_flag=True, help="Show what every process logs.")
@click.option("--flower", is_flag=True, help="Show workers, tasks and queues to browsers. [CELERITY_FLOWER_PORT; 5555]")
def up(verbose: bool, flower: bool, **options: Any) -> None:
    """Run everything on this machine until Ctrl-C.

    Starts Redis, the gateway and a worker for each pinned model, and prints `ready URL`
    once a request would be answered.
    """
    settings = settings_with(**options)
    from deploy import local  # noqa: PLC0415

    local.up(settings, verbose=verbose, with_flower=flower)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
@_models
@_redis_url
@state_dir_option
def status(as_json: bool, **options: Any) -> None:
    """Show models, replicas, queues and nodes."""
    settings = settings_with(**options)
    from deploy import status_view  # noqa: PLC0415

    status_view.show(settings, as_json=as_json)


@main.command()
@click.argument("model")
@wait_option
@_models
@_redis_url
@state_dir_option
def load(model: str, wait: bool, **options: Any) -> None:
    """Load MODEL, named by its id or an alias, also after its loads have failed.

    It goes before all that requests wait for, and is watched until it is ready. The exit code
    is 1 when that fails, or nothing may be moved to make room; Ctrl-C ends the watching only.
    """
    settings = settings_with(**options)
    from deploy import loading  # noqa: PLC0415

    loading.load(settings, model, wait=wait)


@main.command()
@click.argument("model")
@wait_option
@_models
@_redis_url
@state_dir_option
def unload(model: str, wait: bool, **options: Any) -> None:
    """Have the replicas of MODEL finish what they have, and end.

    Also those of a pinned model, which then stays away until it is loaded or asked for, or
    for a day. The exit code is 1 when it stays because requests wait for it.
    """
    settings = settings_with(**options)
    from deploy import loading  # noqa: PLC0415

    loading.unload(settings, model, wait=wait)


@main.command()
@click.argument("state", type=click.Choice(["on", "off"]))
@_models
@_redis_url
@state_dir_option
def loader(state: str, **options: Any) -> None:
    """Turn the loader on, or off: then it does nothing but what `load` and `unload` order."""
    settings = settings_with(**options)
    from deploy import loading  # noqa: PLC0415

    loading.switch(settings, automatic=state == "on")


@main.command()
@click.argument("model", required=False)
@click.option("--url", envvar="CELERITY_URL", help="The gateway. [CELERITY_URL; the one that runs here]")
@click.option("--key", envvar="CELERITY_API_KEY", help="An API key. [CELERITY_API_KEY]")
@state_dir_option
def chat(model: str | None, url: str | None, key: str | None, state_dir: Path | None) -> None:
    """Talk to MODEL, or to the first one there is. Lines that come by a pipe are asked one by one."""
    settings = settings_with(state_dir=state_dir)
    from deploy import chat as conversation  # noqa: PLC0415

    conversation.run(model, url=url or conversation.local_url(settings), key=key)


@main.command()
@click.argument("model", required=False)
@_models
@state_dir_option
def doctor(model: str | None, **options: Any) -> None:
    """Say what this machine has, what is missing, and how to fix it.

    With MODEL: what that model is, how much memory each part of it takes, and where it
    would fit. The exit code is 1 when something is missing, or the model could not run.
    """
    settings = settings_with(**options)
    if model is not None:
        from deploy import model_doctor  # noqa: PLC0415

        sys.exit(model_doctor.run(settings, model))
    from deploy import doctor as examination  # noqa: PLC0415

    sys.exit(examination.run(settings))


@main.group()
def deadletter() -> None:
    """Look at requests that workers died of, and run one again."""


@deadletter.command("list")
@json_option
@_redis_url
@state_dir_option
def list_dead_letters(as_json: bool, **options: Any) -> None:
    """Show what was given up in the last seven days, without what the clients wrote."""
    settings = settings_with(**options)
    from deploy import dead_letter_view  # noqa: PLC0415

    dead_letter_view.show_all(settings, as_json=as_json)


@deadletter.command("show")
@click.argument("request_id")
@json_option
@_redis_url
@state_dir_option
def show_dead_letter(request_id: str, as_json: bool, **options: Any) -> None:
    """Show one request with its body and what it had produced."""
    settings = settings_with(**options)
    from deploy import dead_letter_view  # noqa: PLC0415

    dead_letter_view.show(settings, request_id, as_json=as_json)


@deadletter.command("replay")
@click.argument("request_id")
@json_option
@_models
@_redis_url
@state_dir_option
def replay_dead_letter(request_id: str, as_json: bool, **options: Any) -> None:
    """Run a request again as a new one, whose id is printed.

    Its caller can fetch the answer by that id for a day. If it kills workers again, it is given up again.
    """
    settings = settings_with(**options)
    from deploy import dead_letter_view  # noqa: PLC0415

    dead_letter_view.replay(settings, request_id, as_json=as_json)


main.add_command(batch)
main.add_command(bench)


@main.group()
def keys() -> None:
    """Make, list and remove API keys."""


_file = click.option(
    "--file", "path", type=click.Path(path_type=Path), help="The file of keys. [CELERITY_API_KEYS_FILE]"
)


@keys.command("add")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["user", "operator"]), default="user", help="An operator may use /admin. [user]"
)
@click.option(
    "--priority",
    type=click.Choice(["any", "interactive", "bulk"]),
    default="any",
    help="What it may ask for: interactive answers, bulk work (batches, flex requests), or both. [any]",
)
@_file
def add_key(name: str, role: str, priority: str, path: Path | None) -> None:
    """Make a key for NAME and print it. It is shown this once."""
    from deploy import key_file  # noqa: PLC0415

    key_file.add(_key_file(path), name, role, priority)


@keys.command("list")
@_file
def list_keys(path: Path | None) -> None:
    """Show whose keys there are, and what each is good for."""
    from deploy import key_file  # noqa: PLC0415

    key_file.show(_key_file(path))


@keys.command("remove")
@click.argument("name")
@_file
def remove_key(name: str, path: Path | None) -> None:
    """Make NAME's key invalid; a running gateway notices within a second or two."""
    from deploy import key_file  # noqa: PLC0415

    key_file.remove(_key_file(path), name)


def _key_file(path: Path | None) -> Path:
    found = path or settings_with().api_keys_file
    if found is None:
        raise CommandError("say which file: set CELERITY_API_KEYS_FILE (the gateway reads it too), or give --file")
    return found
