"""The demo page, the page of the API and their files: they run what this service sends and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
"""Of the pages' files. Said here, because Python asks the machine, and a wrong type keeps a browser from running it."""

router = APIRouter()

_files = StaticFiles(directory=STATIC)
_names = {path.name for path in STATIC.iterdir() if path.suffix in TYPES}


@router.get("/", include_in_schema=False)
async def demo_page(request: Request) -> Response:
    return page_response(request, "index.html")


@router.get("/docs", include_in_schema=False)
async def docs_page(request: Request) -> Response:
    return page_response(request, "docs.html")


@router.get("/static/{name}", include_in_schema=False)
async def page_file(request: Request, name: str) -> Response:
    if name not in _names or name.endswith(".html"):
        raise HTTPException(404)
    return _answer(request, name)


def page_response(request: Request, name: str) -> Response:
    response = _answer(request, name)
    response.headers["Content-Security-Policy"] = content_policy(STATIC / name)
    return response


def _answer(request: Request, name: str) -> Response:
    """The file, or 304 to a browser that has it. Asked for each time: after an upgrade the parts must fit together."""
    path = STATIC / name
    response = _files.file_response(path, path.stat(), request.scope)
    response.headers["Cache-Control"] = "no-cache"
    if response.status_code == 200:
        response.headers["Content-Type"] = TYPES[path.suffix]
    return response


@cache
def content_policy(path: Path) -> str:
    """What a page may do: run the scripts and styles that it holds, known by their hashes, or that it links to here,
    and ask this service."""
    text = path.read_text("utf-8")
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_sources(text, 'script', r'<script [^>]*src=')}",
            f"style-src {_sources(text, 'style', r'<link [^>]*stylesheet')}",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _sources(page: str, element: str, link: str) -> str:
    contents = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    return " ".join([*hashes, *(["'self'"] if re.search(link, page) else [])]) or "'none'"
