"""What gunicorn loads in each worker process, after the fork: `gunicorn "webapp.wsgi:create()"`."""

from __future__ import annotations

from flask import Flask

from tasks import logs
from tasks.gateway.redis_dispatch import RedisDispatcher
from tasks.settings import Settings, SettingsError
from webapp.api_keys import KeyFileError, KeyRing
from webapp.app import create_app
from webapp.exposure import require_keys_beyond_loopback
from webapp.live_registry import LiveRegistry
from workers.registry_watch import RegistryWatch


def create() -> Flask:
    """Build the gateway from the environment. Raises SettingsError or RegistryError with a text for the operator."""
    settings = Settings.from_env()
    require_keys_beyond_loopback(settings)
    logs.configure(settings.log_level)
    try:
        keys = KeyRing(settings.api_keys_file) if settings.api_keys_file else None
    except KeyFileError as error:
        raise SettingsError(str(error)) from error
    registries = LiveRegistry(RegistryWatch(settings.models, settings.models_dir))
    app = create_app(settings, registries, RedisDispatcher(settings), keys)
    registries.start()
    return app
