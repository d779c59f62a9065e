"""What the commands have in common: options, the settings under them, and errors as one message."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from deploy.errors import CommandError
from tasks.settings import PREFIX, Settings, SettingsError


class CommandGroup(click.Group):
    """Shows an error that is meant for people as one message, without a traceback."""

    exit_code = 1

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (CommandError, SettingsError) as error:
            click.ClickException(str(error)).show()
            return ctx.exit(self.exit_code)


def settings_with(**options: Any) -> Settings:
    """Read the environment with the command line's `options` laid over it. Raises SettingsError."""
    given = {PREFIX + name.upper(): str(value) for name, value in options.items() if value is not None}
    return Settings.from_env({**os.environ, **given})


state_dir_option = click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Where logs and the embedded Redis live. [CELERITY_STATE_DIR]"
)
wait_option = click.option(
    "--wait/--no-wait", default=True, help="Watch until it is done, or only give the order. [wait]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
