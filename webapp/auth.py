"""Who may call: everything is closed but what is named here.

A key counts only in one `Authorization: Bearer` header. Why a key was refused is not
said, and nothing here needs Redis, so that a slow queue never locks callers out.

/admin needs the key of an operator. Where no key is asked for, only this machine can call
(`webapp.exposure`); what a browser on it does for a page from elsewhere is refused there,
or any page could unload our models.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from flask import Flask, g, request

from tasks.errors import ForbiddenOriginError, InvalidApiKeyError, OperatorKeyRequiredError
from webapp.api_keys import KeyRing, Priorities, Role

NOBODY = ""
"""Who owns what came without a key: by `tasks.batch`, or while none was asked for."""

_OPEN = frozenset({"/live", "/health"})
_BEARER = re.compile(r"[Bb]earer ([A-Za-z0-9._~+/=-]{1,512})")


def install(app: Flask, keys: KeyRing | None) -> None:
    """Ask for a key of `keys` before every request; for none when it is None."""
    if keys is None:
        app.before_request(_require_own_pages)
        return

    @app.before_request
    def require_key() -> None:
        if request.path in _OPEN or (request.path == "/metrics" and _from_this_machine()):
            return
        given = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        entry = keys.entry_of(given[1]) if given else None
        if entry is None:
            raise InvalidApiKeyError("No valid API key was given. Send yours as 'Authorization: Bearer KEY'.")
        if _is_admin(request.path) and entry.role is not Role.OPERATOR:
            raise OperatorKeyRequiredError(
                "This needs the key of an operator: one made with 'celerity keys add NAME --role operator'."
            )
        g.caller, g.priorities = entry.name, entry.priorities
        g.sees_to = (NOBODY,) if entry.role is Role.OPERATOR else ()


def caller() -> str:
    """Return the name of the key that the current request came with; "" where none is asked for."""
    name: str = g.get("caller", NOBODY)
    return name


def owners() -> tuple[str, *tuple[str, ...]]:
    """Return whose files and batches the current request may see to: its own, and for an operator those of no key."""
    others: tuple[str, ...] = g.get("sees_to", ())
    return caller(), *others


def priorities() -> Priorities:
    """Return which priorities the current request may ask for."""
    allowed: Priorities = g.get("priorities", Priorities.ANY)
    return allowed


def _require_own_pages() -> None:
    """Refuse what a browser sends to /admin for another site's page, and a name for this machine that is not its own.

    The second is how a page pretends to be ours: its name is made to lead to this machine.
    """
    if not _is_admin(request.path):
        return
    foreign = request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    origin = request.headers.get("Origin")
    if foreign or (origin is not None and origin != request.host_url.rstrip("/")) or not _names_loopback(request.host):
        raise ForbiddenOriginError(
            "Without API keys, /admin answers only to programs on this machine and its own pages."
        )


def _is_admin(path: str) -> bool:
    return path == "/admin" or path.startswith("/admin/")


def _names_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    if name == "localhost":
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _from_this_machine() -> bool:
    """Say whether the client is on this machine; behind a proxy nobody is."""
    if request.headers.get("X-Forwarded-For") or request.headers.get("Forwarded"):
        return False
    try:
        return ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False
