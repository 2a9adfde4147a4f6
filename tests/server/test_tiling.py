"""Pictures in tiles, against the blobs of the whole picture, which are known exactly."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.contract import rle
from server.contract.errors import BadParameter
from server.contract.wire import ImageResult, PredictOptions, RleMask
from server.merging import merged
from server.pictures.decode import PictureFile, decode_image
from server.pipeline import Pipeline
from server.postprocess import Instance
from server.tiling import MAX_TILES, tiles_of
from tests.server.blob_engine import BlobEngine, blobs, box_of, colours
from tests.server.running import as_png, noise

RED, GREEN = (255, 0, 0), (0, 255, 0)


# Where tiles are


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(64, 300), st.data())
def test_tiles_cover_the_picture_and_share_enough(h: int, w: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile // 2))
    tiles = tiles_of((h, w), PredictOptions(tile=tile, overlap=overlap))

    assert {t.size_hw for t in tiles} == {(min(h, tile), min(w, tile))}
    for length, spans in ((w, {(t.x1, t.x2) for t in tiles}), (h, {(t.y1, t.y2) for t in tiles})):
        ordered = sorted(spans)
        assert (ordered[0][0], ordered[-1][1]) == (0, length)
        shared = [end - start for (_, end), (start, _) in itertools.pairwise(ordered)]
        assert all(pixels >= overlap for pixels in shared)
        assert max(shared, default=0) - min(shared, default=0) <= 1
    assert len(tiles) == len(set(tiles)) == len({t.x1 for t in tiles}) * len({t.y1 for t in tiles})


def test_overlap_is_an_eighth_unless_it_is_said() -> None:
    assert tiles_of((100, 900), PredictOptions(tile=512)) == tiles_of((100, 900), PredictOptions(tile=512, overlap=64))


def test_no_more_tiles_than_it_takes() -> None:
    assert [t.x1 for t in tiles_of((10, 1000), PredictOptions(tile=400, overlap=100))] == [0, 300, 600]


def test_far_too_many_tiles() -> None:
    with pytest.raises(BadParameter, match=rf"tile: it makes \d+ tiles .* {MAX_TILES} .* larger"):
        tiles_of((10_000, 10_000), PredictOptions(tile=64, overlap=32))


# What is found


def disc(picture: np.ndarray, x: int, y: int, radius: float, colour: tuple[int, int, int] = RED) -> None:
    ys, xs = np.indices(picture.shape[:2])
    picture[np.hypot(ys - y, xs - x) <= radius] = colour


def black(h: int, w: int) -> np.ndarray:
    return np.zeros((h, w, 3), np.uint8)


def expected(picture: np.ndarray) -> set[tuple[int, tuple[int, int, int, int], bytes]]:
    return {(label, box_of(blob), blob.tobytes()) for label, mask in colours(picture) for blob in blobs(mask)}


def found_in(result: ImageResult) -> list[tuple[int, tuple[int, int, int, int], bytes]]:
    size_hw = (result.height, result.width)
    rows = []
    for detection in result.detections:
        assert isinstance(detection.mask, RleMask)
        mask = rle.to_mask(rle.decompress(detection.mask.counts, size_hw), size_hw)
        assert detection.area == mask.sum()
        x1, y1, x2, y2 = (round(side) for side in detection.box)
        rows.append((detection.class_id, (x1, y1, x2, y2), np.ascontiguousarray(mask).tobytes()))
    return rows


def check(picture: np.ndarray, tile: int, overlap: int, *, file: bool = False) -> ImageResult:
    """Every blob once, to the pixel."""
    result = Pipeline(BlobEngine()).predict(
        as_png(picture) if file else picture, PredictOptions(tile=tile, overlap=overlap)
    )
    found = found_in(result)
    assert len(found) == len(set(found))
    assert set(found) == expected(picture)
    scores = [detection.score for detection in result.detections]
    assert scores == sorted(scores, reverse=True)
    return result


CASES = {
    "within the overlap of two tiles": [(82, 40, 4)],
    "cut by one tile and whole in the next": [(92, 40, 8)],
    "as wide as the overlap, and cut by both": [(82, 40, 20)],
    "much wider than the overlap": [(82, 50, 40)],
    "where four tiles meet": [(82, 82, 6)],
    "where four tiles meet, cut by all": [(82, 82, 30)],
    "larger than a tile": [(150, 150, 75)],
    "ends with its tile": [(89, 40, 10), (60, 160, 4)],
    "two beside each other on the seam": [(80, 40, 6), (94, 40, 6)],
    "beyond a seam by one pixel": [(101, 40, 6)],
    "in the corners of the picture": [(0, 0, 9), (299, 0, 9), (0, 299, 9), (299, 299, 9)],
    "one pixel on each seam": [(82, 82, 0), (72, 10, 0), (99, 10, 0)],
}


@pytest.mark.parametrize("discs", CASES.values(), ids=CASES.keys())
def test_a_blob_on_a_seam_is_found_once(discs: list[tuple[int, int, float]]) -> None:
    picture = black(300, 300)  # tiles of 100 at 0, 67, 133 and 200
    for x, y, radius in discs:
        disc(picture, x, y, radius)
    check(picture, 100, 20)


def test_a_blob_that_two_tiles_see_in_two_parts() -> None:
    """A horseshoe: its ends are apart in the upper tile."""
    picture = black(180, 100)
    picture[60:130, 20:80] = RED
    picture[60:115, 40:60] = 0
    check(picture, 100, 20)


def test_a_long_blob_through_many_tiles() -> None:
    picture = black(100, 700)
    picture[45:55, 3:690] = RED
    (detection,) = check(picture, 100, 12).detections
    assert detection.box == pytest.approx((3, 45, 690, 55))


def test_neighbours_of_another_class_stay_apart() -> None:
    picture = black(100, 200)
    picture[40:60, 60:100] = RED
    picture[40:60, 100:140] = GREEN
    assert sorted(d.class_id for d in check(picture, 120, 40).detections) == [1, 2]


@pytest.mark.parametrize(
    ("box", "stays"),
    [
        pytest.param((97, 40, 100, 60), False, id="at the edge, where the other tile sees more"),
        pytest.param((70, 40, 80, 60), True, id="not at the edge"),
        pytest.param((97, 0, 100, 20), False, id="at the edge, and at that of the picture"),
        pytest.param((40, 0, 50, 20), True, id="at the edge of the picture"),
    ],
)
def test_what_one_tile_sees_and_another_does_not(box: tuple[int, int, int, int], stays: bool) -> None:
    left, right = tiles_of((100, 180), PredictOptions(tile=100, overlap=20))
    x1, y1, x2, y2 = box
    mask = np.zeros((100, 100), np.bool_)
    mask[y1:y2, x1:x2] = True
    instance = Instance(box, 1, 0.9, rle.from_mask(mask))
    assert len(merged([(left, [instance]), (right, [])], (100, 180))) == int(stays)


@pytest.mark.parametrize("seed", range(8))
def test_many_blobs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, w = rng.integers(120, 260, 2)
    picture = black(h, w)
    for _ in range(rng.integers(5, 40)):
        disc(picture, rng.integers(w), rng.integers(h), rng.integers(0, 14), RED if rng.random() < 0.7 else GREEN)
    tile = int(rng.integers(64, 100))
    check(picture, tile, int(rng.integers(16, tile // 2)), file=bool(seed % 2))


def test_a_picture_no_larger_than_a_tile_has_the_plain_answer() -> None:
    picture = black(100, 90)
    for x in range(5, 90, 12):
        disc(picture, x, x, 4)
    pipeline = Pipeline(BlobEngine())
    for options in ({}, {"max_detections": 3}, {"score_threshold": 0.6005}, {"classes": ("green",)}):
        plain = pipeline.predict(picture, PredictOptions(**options))
        assert pipeline.predict(picture, PredictOptions(tile=100, **options)) == plain


def test_limits_are_the_models_for_a_tile_and_the_querys_for_the_picture() -> None:
    picture = black(100, 160)
    picture[5::10, 5::10] = RED
    count = len(expected(picture))
    pipeline = Pipeline(BlobEngine())
    assert count > BlobEngine.card.output.max_detections
    assert len(pipeline.predict(picture).detections) == BlobEngine.card.output.max_detections
    assert len(pipeline.predict(picture, PredictOptions(tile=64)).detections) == count
    assert len(pipeline.predict(picture, PredictOptions(tile=64, max_detections=7)).detections) == 7


def turned(picture: np.ndarray, orientation: int, mode: str = "RGB") -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(picture).convert(mode).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_a_part_of_a_file_is_that_of_the_whole_picture(orientation: int, mode: str) -> None:
    file = turned(noise(0, (40, 61)), orientation, mode)
    whole, decoded = decode_image(file), PictureFile(file).decode()
    part = decoded.part(3, 5, 37, 39)
    assert part.shape == (34, 34, 3)
    np.testing.assert_array_equal(part[:], whole[5:39, 3:37])
    np.testing.assert_array_equal(part[4:9], whole[9:14, 3:37])
    np.testing.assert_array_equal(part.part(1, 2, 8, 20)[:], whole[7:25, 4:11])


@pytest.mark.parametrize("orientation", [1, 6])
def test_tiles_of_a_file_are_those_of_its_picture(orientation: int) -> None:
    picture = black(90, 150)
    picture[20:45, 30:140] = RED
    picture[70:80, 5:20] = GREEN
    file, options, pipeline = turned(picture, orientation), PredictOptions(tile=64, overlap=16), Pipeline(BlobEngine())
    result = pipeline.predict(file, options)
    assert len(result.detections) == 2
    assert result == pipeline.predict(decode_image(file), options)
