"""The two models that are compared: bundles, answered for in this process, or servers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from clients.errors import MasklineError
from clients.folder import PictureFile
from clients.prediction import Prediction

if TYPE_CHECKING:
    from clients.exchange import Options

Found = Prediction | MasklineError
BothFound = Generator[tuple[PictureFile, Found, Found], None, None]


def answers_of_both(a: str, b: str, pictures: Sequence[PictureFile], api_key: str | None) -> BothFound:
    """Each picture with all that A and B find in it, down to their own limits of the score, or why nothing could be;
    side by side, so that few answers are in memory.

    Raises:
        MissingExtraError: for a bundle, there is no server package or no runtime here.
        MasklineError: a bundle cannot be loaded.
    """
    options: Options = {"score_threshold": 0.0}
    with (
        closing(_answers(a, pictures, options, api_key)) as in_a,
        closing(_answers(b, pictures, options, api_key)) as in_b,
    ):
        yield from zip(pictures, in_a, in_b, strict=True)


def _answers(
    model: str, pictures: Sequence[PictureFile], options: Options, api_key: str | None
) -> Generator[Found, None, None]:
    if not model.startswith(("http://", "https://")):
        yield from _in_process(model, pictures, options)
        return
    from clients.client import Client

    with Client(model, api_key) as client, closing(client.predict_many((p.path for p in pictures), **options)) as found:
        for _, answer in found:
            yield answer


def _in_process(bundle: str, pictures: Sequence[PictureFile], options: Options) -> Generator[Found, None, None]:
    from clients.exchange import query
    from clients.in_process import Job
    from clients.sources import Files

    job = Job(bundle, query(options), "auto")
    with closing(job.answer([Files(pictures)], lambda _: False, None)) as found:
        for _, answer in found:
            yield answer
