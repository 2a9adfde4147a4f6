"""The pages of the service, each one file, which may run what they hold and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from starlette.responses import FileResponse


def page_response(path: Path) -> FileResponse:
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": content_policy(path)})


@cache
def content_policy(path: Path) -> str:
    """What a page may do: run its own scripts and styles, known by their hashes, and ask this service."""
    text = path.read_text("utf-8")
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(text, 'script')}",
            f"style-src {_hashes(text, 'style')}",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hashes(page: str, element: str) -> str:
    contents = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
