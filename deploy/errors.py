"""What stops a command, told to a person."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot do what it was asked to. The text says what is in the way and how to change it."""


class StartError(CommandError):
    """`celerity up` cannot run."""
