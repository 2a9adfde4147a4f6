"""What the documentation shows as examples. A test sends them all."""

from __future__ import annotations

from typing import Final

MODEL: Final = "demo"
VERSION: Final = "1"
CLASS: Final = "nucleus"
PICTURE: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAYCAAAAAC+OKDoAAAASUlEQVR42mOUY8APmBgGXgELMmcVjBGGEGOUw5RGUQJXsArd7DBUN2DIw0SY"
    "cMnDxAZDQFFNQRgWqTAUE8JwyJMQF0TE5oCFAwDU5wnhbNeHDwAAAABJRU5ErkJggg=="
)
"""A PNG file in base64."""
