"""Who may call: everything is closed but what is named here.

A key counts only in one `Authorization: Bearer` header. Why a key was refused is not
said, and nothing here needs Redis, so that a slow queue never locks callers out.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from flask import Flask, g, request

from tasks.errors import InvalidApiKeyError
from webapp.api_keys import KeyRing

_OPEN = frozenset({"/live", "/health"})
_BEARER = re.compile(r"[Bb]earer ([A-Za-z0-9._~+/=-]{1,512})")


def install(app: Flask, keys: KeyRing | None) -> None:
    """Ask for a key of `keys` before every request; for none when it is None."""
    if keys is None:
        return

    @app.before_request
    def require_key() -> None:
        if request.path in _OPEN or (request.path == "/metrics" and _from_this_machine()):
            return
        given = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        name = keys.name_of(given[1]) if given else None
        if name is None:
            raise InvalidApiKeyError("No valid API key was given. Send yours as 'Authorization: Bearer KEY'.")
        g.caller = name


def _from_this_machine() -> bool:
    """Say whether the client is on this machine; behind a proxy nobody is."""
    if request.headers.get("X-Forwarded-For") or request.headers.get("Forwarded"):
        return False
    try:
        return ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
