"""The JSON body of `/predict`: pictures in base64, or by their addresses where the server may fetch them."""

from __future__ import annotations

import asyncio

from server.contract.errors import BadParameter, BadPictureInBatch, BodyTooLarge, PictureError
from server.contract.wire import PredictBody
from server.pictures.remote import RemotePictures, is_address
from server.protocols.body import too_many_pictures
from server.settings import MIB, Settings

MANY_FIELDS = 100
"""Values of a JSON body beside the pictures; more are no body of ours, and fewer get the better sentence."""


async def json_pictures(body: bytes, settings: Settings, remote: RemotePictures | None) -> list[bytes]:
    """The picture files. `remote` is None where addresses are not accepted.

    Raises:
        BadParameter: another document, or an address where none is accepted. BodyTooLarge: too many pictures or bytes.
        PictureError: the only picture is bad. BadPictureInBatch: one of several is.
    """
    if body.count(b",") > settings.max_pictures + MANY_FIELDS:  # a parser makes gigabytes of a hundred MB of "0,0,0"
        raise too_many_pictures(settings.max_pictures)
    parsed = await asyncio.to_thread(PredictBody.from_json, body)
    return await picture_files(parsed, settings, remote)


async def picture_files(parsed: PredictBody, settings: Settings, remote: RemotePictures | None) -> list[bytes]:
    """The same of a body that is parsed. Raises what `json_pictures` does."""
    texts = [parsed.image] if parsed.image is not None else parsed.images or []
    if len(texts) > settings.max_pictures:
        raise too_many_pictures(settings.max_pictures)
    addresses = {index: text for index, text in enumerate(texts) if is_address(text)}
    fetched = await _fetched(addresses, remote, several=parsed.image is None)
    if sum(map(len, fetched.values())) > settings.max_body_mib * MIB:
        raise BodyTooLarge(f"The fetched pictures have more than {settings.max_body_mib} MiB.")
    return await asyncio.to_thread(parsed.pictures, fetched)


async def _fetched(addresses: dict[int, str], remote: RemotePictures | None, several: bool) -> dict[int, bytes]:
    if addresses and remote is None:
        raise BadParameter(
            "This server fetches no pictures; send the file itself, or let the server allow addresses (url_inputs)."
        )
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {
                index: group.create_task(_fetch_one(remote, url, index if several else None))
                for index, url in addresses.items()
                if remote is not None
            }
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return {index: task.result() for index, task in tasks.items()}


async def _fetch_one(remote: RemotePictures, url: str, index: int | None) -> bytes:
    try:
        return await remote.fetch(url)
    except PictureError as error:
        raise error if index is None else BadPictureInBatch(index, error) from error
