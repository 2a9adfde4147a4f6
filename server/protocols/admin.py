"""Who may load and unload models."""

from __future__ import annotations

import hmac

from starlette.exceptions import HTTPException
from starlette.requests import Request

from server.gateway import key_bytes, key_of
from server.protocols.prediction import settings_of


def check_admin_key(request: Request) -> None:
    """Raises `HTTPException` with 403 unless the request carries the admin key, and one is set."""
    key = key_bytes(settings_of(request).admin_key)
    if not key or not hmac.compare_digest(key_of(request.headers), key):
        raise HTTPException(403, "This needs the admin key that MASKLINE_ADMIN_KEY sets.")
