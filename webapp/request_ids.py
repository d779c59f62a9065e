"""The names of a request.

Inside, and as `x-request-id` of the answer, a request has an id of our own making, which
nobody can guess or choose. A client's own `X-Request-Id` is a label: when it is well
formed it is logged beside ours and returned as `x-client-request-id`, else it is ignored.
"""

from __future__ import annotations

import re
import secrets

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}")


def new() -> str:
    return f"req_{secrets.token_hex(16)}"


def of_client(header: str | None) -> str | None:
    """Return the client's label, or None when it sent none that can be repeated safely."""
    return header if header and _WELL_FORMED.fullmatch(header) else None
