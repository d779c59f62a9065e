"""Refuse to be open to the network without keys."""

from __future__ import annotations

from tasks.settings import Settings, SettingsError


def require_keys_beyond_loopback(settings: Settings) -> None:
    """Raise SettingsError when anyone on the network could use this gateway without a key."""
    if settings.api_keys_file is None and not settings.loopback_only:
        raise SettingsError(
            f"refusing to listen on {settings.host} without API keys: anyone who reaches this machine could use it. "
            "Make a key with 'celerity keys add NAME' and set CELERITY_API_KEYS_FILE to its file, "
            "or listen on 127.0.0.1."
        )
