"""Why a replica could not be launched. Whether and when to try again is not decided here."""

from __future__ import annotations


class LaunchError(Exception):
    """A launcher could not do what it was asked to. The text is for operators, and says what to do."""

    code = "launch_failed"


class LauncherDownError(LaunchError):
    """What would start, stop or know of replicas does not answer. Those that run may well go on."""

    code = "launcher_down"


class ImageMissingError(LaunchError):
    """The container image is not on this machine. It is never fetched: what runs here is the operator's choice."""

    code = "image_missing"


class NameTakenError(LaunchError):
    """Something of this name is there already, ours or not. A new replica id helps."""

    code = "name_taken"


class RefusedError(LaunchError):
    """It cannot be started like this: a path or a device is missing, or a setting is wrong."""

    code = "launch_refused"


class SupervisorGoneError(LauncherDownError):
    """The supervisor under which this agent runs has ended, so nothing may be started any more: no model's fault."""

    code = "supervisor_gone"
