from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image
from pycocotools import mask as coco
from pydantic import TypeAdapter

from server.contract import rle
from server.contract.card import ModelCard
from server.contract.errors import BadParameter
from server.contract.wire import ImageResult, PngMask, PolygonMask, PredictOptions, RleMask, UncompressedRleMask
from server.pasting import PasteRule, paste
from server.postprocess import boxes_to_image, select, to_image_result
from server.preprocess import Canvas
from tests.server.contract.cards import card_values, model_card

# pycocotools 2.0.11 hands numpy 2 an array in the manner of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ALL_OVER = np.ones((28, 28), np.float32)


def paste_to_rle(mask: np.ndarray, box_image: np.ndarray, size_hw: tuple[int, int], rule: PasteRule) -> rle.Counts:
    return paste(mask[None], box_image[None], size_hw, rule)[0]


# Pasting, against a plain paste into a mask of the picture's size


def bilinear(mask: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values at sample coordinates y [h], x [w] by the four neighbours, zeros outside; float64 [h, w]."""
    padded = np.pad(mask.astype(np.float64), 2)
    y, x = np.clip(y, -2, mask.shape[0]), np.clip(x, -2, mask.shape[1])
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = (y - top)[:, None], (x - left)[None]
    above, below = padded[top + 2], padded[np.minimum(top + 3, padded.shape[0] - 1)]
    across = np.minimum(left + 3, padded.shape[1] - 1)
    upper = above[:, left + 2] * (1 - right) + above[:, across] * right
    lower = below[:, left + 2] * (1 - right) + below[:, across] * right
    return upper * (1 - down) + lower * down


def paste_fading(mask: np.ndarray, box: np.ndarray, h: int, w: int) -> np.ndarray:
    """detectron2's paste (Matterport's for whole-pixel boxes): sampled at every pixel centre of the picture."""
    x1, y1, x2, y2 = box.astype(np.float64)
    y = (np.arange(h) + 0.5 - y1) / (y2 - y1) * mask.shape[0] - 0.5
    x = (np.arange(w) + 0.5 - x1) / (x2 - x1) * mask.shape[1] - 0.5
    return bilinear(mask, y, x)


def paste_grown(mask: np.ndarray, box: np.ndarray, h: int, w: int) -> np.ndarray:
    """torchvision's paste: padded by one, box grown about its centre and truncated, border repeated."""
    padded = np.pad(mask, 1)
    centre, half = (box[2:] + box[:2]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5)
    half = half * np.float32(padded.shape[0] / mask.shape[0])
    x1, y1 = (int(v) for v in centre - half)
    x2, y2 = (int(v) for v in centre + half)
    crop_h, crop_w = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    y = np.clip((np.arange(crop_h) + 0.5) * len(padded) / crop_h - 0.5, 0, len(padded) - 1)
    x = np.clip((np.arange(crop_w) + 0.5) * len(padded) / crop_w - 0.5, 0, len(padded) - 1)
    crop = bilinear(padded, y, x)
    full = np.zeros((h, w))
    for row in range(max(y1, 0), min(y2 + 1, h)):
        for column in range(max(x1, 0), min(x2 + 1, w)):
            full[row, column] = crop[row - y1, column - x1]
    return full


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """Noise, or a blob, or all set."""
    if rng.random() < 0.1:
        return ALL_OVER
    noise = rng.random((28, 28), dtype=np.float32)
    grid = np.linspace(-1, 1, 28, dtype=np.float32)
    blob = 1 / (1 + np.exp(8 * (np.hypot(grid[:, None], grid) - rng.random(dtype=np.float32))))
    return noise if rng.random() < 0.5 else blob.astype(np.float32)


def random_box(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Inside, at the borders, the whole picture, one pixel, below one pixel, partly and wholly outside."""
    side = max(h, w)
    corner = rng.uniform(-side / 3, side, 2)
    kind = rng.integers(6)
    if kind == 0:
        corner, size = np.floor(corner), np.ones(2)
    elif kind == 1:
        size = rng.uniform(0.01, 2, 2)
    elif kind == 2:
        corner, size = np.zeros(2), np.array([w, h])
    else:
        size = rng.uniform(1, side, 2)
    box = np.concatenate((corner, corner + size))
    return (np.clip(box, 0, [w, h, w, h]) if kind == 3 else box).astype(np.float32)


def cases(count: int) -> Any:
    rng = np.random.default_rng(7)
    for _ in range(count):
        h, w = (int(v) for v in rng.integers(1, 60, 2))
        yield random_mask(rng), random_box(rng, h, w), h, w


def decoded(counts: rle.Counts, h: int, w: int) -> np.ndarray:
    return coco.decode({"size": [h, w], "counts": rle.compress(counts)}).astype(bool)


def test_detectron2_paste_is_the_full_size_paste_to_the_pixel() -> None:
    wrong = set_pixels = 0
    for mask, box, h, w in cases(1000):
        full = np.zeros((h, w), bool) if (box[2:] <= box[:2]).any() else paste_fading(mask, box, h, w) >= 0.5
        pasted = decoded(paste_to_rle(mask, box, (h, w), "detectron2"), h, w)
        wrong += int((pasted != full).sum())
        set_pixels += int(full.sum())

    assert set_pixels > 50_000
    assert wrong == 0


def test_matterport_paste_is_the_full_size_paste_to_the_pixel() -> None:
    wrong = 0
    for mask, box, h, w in cases(400):
        whole = np.clip(np.around(box), 0, [w, h, w, h]).astype(np.float32)
        if (whole[2:] <= whole[:2]).any():
            continue
        full = np.zeros((h, w), bool)
        x1, y1, x2, y2 = whole.astype(int)
        full[y1:y2, x1:x2] = paste_fading(mask, whole - np.tile(whole[:2], 2), y2 - y1, x2 - x1) >= 0.5
        wrong += int((decoded(paste_to_rle(mask, whole, (h, w), "matterport"), h, w) != full).sum())

    assert wrong == 0


def test_a_matterport_mask_without_a_hole_fills_its_box() -> None:
    """scikit-image never goes below the least value it was given, so the border does not fade."""
    mask = np.full((28, 28), 0.6, np.float32)
    pasted = decoded(paste_to_rle(mask, np.float32([10, 5, 70, 45]), (60, 80), "matterport"), 60, 80)
    assert (pasted[5:45, 10:70] == 1).all()
    assert pasted.sum() == 40 * 60


def test_torchvision_paste_is_the_full_size_paste() -> None:
    wrong = set_pixels = 0
    for mask, box, h, w in cases(400):
        full = paste_grown(mask, box, h, w)
        pasted = decoded(paste_to_rle(mask, box, (h, w), "torchvision"), h, w)
        certain = np.abs(full - 0.5) > 1e-5  # sample positions are float32, as torch's
        wrong += int(((pasted != (full >= 0.5)) & certain).sum())
        set_pixels += int(pasted.sum())

    assert set_pixels > 20_000
    assert wrong == 0


def test_a_hand_drawn_paste() -> None:
    mask = np.array([[1.0, 0.0], [0.0, 0.0]])

    # A box of 4 x 4 at (1, 0): samples every half a mask pixel, at -0.25, 0.25, 0.75 and 1.25.
    # Weights of the first row and column there: 0.75, 0.75, 0.25, 0; products of 0.5 and more are set.
    counts = paste_to_rle(mask, np.float32([1, 0, 5, 4]), (5, 6), "detectron2")

    expected = np.zeros((5, 6), bool)
    expected[0:2, 1:3] = True
    np.testing.assert_array_equal(decoded(counts, 5, 6), expected)
    assert counts.tolist() == [5, 2, 3, 2, 18]


@pytest.mark.parametrize("rule", ["detectron2", "torchvision", "matterport"])
@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([0, 0, 4, 6], [0, 24], id="the whole picture is one run"),
        pytest.param([0, 0, 4, 3], [0, 3, 3, 3, 3, 3, 3, 3, 3], id="upper half"),
        pytest.param([0, 3, 4, 6], [3, 3, 3, 3, 3, 3, 3, 3], id="lower half ends with ones"),
        pytest.param([1, 0, 3, 6], [6, 12, 6], id="full columns join"),
        pytest.param([3, 5, 4, 6], [23, 1], id="the last pixel"),
        pytest.param([2, 2, 2, 4], None, id="no width"),
        pytest.param([9, 9, 12, 12], [24], id="outside"),
    ],
)
def test_runs_at_the_borders(rule: PasteRule, box: list[float], expected: list[int] | None) -> None:
    counts = paste_to_rle(ALL_OVER, np.float32(box), (6, 4), rule)

    assert counts.sum() == 24
    if rule != "torchvision" or box in ([0, 0, 4, 6], [9, 9, 12, 12]):  # its box is a pixel larger
        assert counts.tolist() == (expected or [24])


# Boxes


def canvas(window: tuple[int, int, int, int], size_hw: tuple[int, int]) -> Canvas:
    return Canvas(np.zeros((1, 1, 3), np.uint8), window, size_hw)


@pytest.mark.parametrize(
    ("rule", "window", "box", "expected"),
    [
        pytest.param("detectron2", (0, 0, 50, 20), [10, 5, 20, 10], [20, 10, 40, 20], id="twice the size"),
        pytest.param("torchvision", (0, 0, 50, 40), [10, 5, 20, 10], [20, 5, 40, 10], id="each axis its own scale"),
        pytest.param("detectron2", (4, 6, 54, 26), [14, 11, 24, 16], [20, 10, 40, 20], id="window in the middle"),
        pytest.param("detectron2", (0, 0, 50, 20), [-3, 5, 60, 99], [0, 10, 100, 40], id="clipped"),
        # (14 - 4) / 49 * 99 = 20.2, (24 - 4) / 49 * 99 + 1 = 41.4; (11 - 6) / 19 * 39 = 10.3, 20.5 + 1 = 21.5
        pytest.param("matterport", (4, 6, 54, 26), [14, 11, 24, 16], [20, 10, 41, 22], id="Matterport's whole pixels"),
        pytest.param("matterport", (4, 6, 54, 26), [4, 6, 53, 25], [0, 0, 100, 40], id="Matterport's whole window"),
    ],
)
def test_boxes_to_image(
    rule: PasteRule, window: tuple[int, int, int, int], box: list[float], expected: list[float]
) -> None:
    boxes = boxes_to_image(np.float32([box]), canvas(window, (40, 100)), rule)

    np.testing.assert_allclose(boxes, [expected], atol=1e-4)


def test_a_window_of_one_pixel_divides_by_nothing() -> None:
    boxes = boxes_to_image(np.float32([[3, 3, 3, 3]]), canvas((3, 3, 4, 4), (1, 1)), "matterport")

    assert boxes.tolist() == [[0, 0, 1, 1]]


# Answers

ROWS = np.float32(
    [
        # image, x1, y1, x2, y2, score, class
        [0, 2, 2, 12, 12, 0.95, 2],
        [0, 20, 2, 30, 12, 0.9, 1],
        [0, 2, 20, 12, 28, 0.6, 1],
        [0, 20, 20, 30, 28, 0.3, 2],
        [0, 0, 0, 5, 5, 0.05, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ]
)
MASKS = np.repeat(ALL_OVER[None], len(ROWS), axis=0)
ON_CANVAS = canvas((0, 0, 32, 32), (64, 64))


def answer(rows: np.ndarray = ROWS, model: ModelCard | None = None, **options: Any) -> ImageResult:
    return to_image_result(rows, MASKS[: len(rows)], ON_CANVAS, model or model_card(), PredictOptions(**options))


def scores(result: ImageResult) -> list[float]:
    return [round(detection.score, 3) for detection in result.detections]


def test_an_answer_has_boxes_classes_areas_and_masks_of_the_picture() -> None:
    result = answer()

    assert (result.width, result.height) == (64, 64)
    assert scores(result) == [0.95, 0.9, 0.6]
    first = result.detections[0]
    assert (first.class_id, first.class_name) == (2, "square")
    assert first.box == (4.0, 4.0, 24.0, 24.0)
    assert isinstance(first.mask, RleMask)
    pixels = coco.decode({"size": list(first.mask.size), "counts": first.mask.counts})
    assert pixels.shape == (64, 64)
    assert pixels.sum() == first.area
    assert pixels[4:24, 4:24].sum() == first.area


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"score_threshold": 0.2}, [0.95, 0.9, 0.6, 0.3], id="lower than the default"),
        pytest.param({"score_threshold": 0.0}, [0.95, 0.9, 0.6, 0.3], id="the graph's own limit holds"),
        pytest.param({"score_threshold": 0.6}, [0.95, 0.9, 0.6], id="inclusive"),
        pytest.param({"score_threshold": 1.0}, [], id="nothing left"),
        pytest.param({"max_detections": 1}, [0.95], id="the best one"),
        pytest.param({"max_detections": 10_000}, [0.95, 0.9, 0.6], id="clamped"),
        pytest.param({"classes": ("disc",)}, [0.9, 0.6], id="class by name"),
        pytest.param({"classes": ("2",)}, [0.95], id="class by id"),
        pytest.param({"classes": ("disc",), "max_detections": 1}, [0.9], id="the best of a class"),
    ],
)
def test_selection(options: dict[str, Any], expected: list[float]) -> None:
    assert scores(answer(**options)) == expected


def test_detections_come_by_falling_score_whatever_the_engine_does() -> None:
    assert scores(answer(ROWS[::-1])) == [0.95, 0.9, 0.6]


def test_no_more_than_the_models_own_limit() -> None:
    rows = np.repeat(ROWS[:1], 6, axis=0)

    assert len(answer(rows).detections) == 5


@pytest.mark.parametrize("name", ["circle", "0", "3", "-1", "background", "²"])
def test_a_class_that_the_model_lacks(name: str) -> None:
    with pytest.raises(BadParameter, match="no class"):
        select(PredictOptions(classes=(name,)), model_card())


def test_a_class_whose_name_is_a_number_wins_over_the_id() -> None:
    model = ModelCard.model_validate({**card_values(), "classes": ["background", "2", "1"]})

    assert select(PredictOptions(classes=("2",)), model).class_ids == {1}


@pytest.mark.parametrize("mask", ["rle", "rle_uncompressed", "png", "polygon", "none"])
def test_every_mask_format_gives_a_valid_document_of_plain_values(mask: str) -> None:
    result = answer(mask=mask)
    document = orjson.dumps(result)  # refuses numpy's numbers

    assert TypeAdapter(ImageResult).validate_json(document) == result
    assert [d.area for d in result.detections] == [d.area for d in answer().detections]


def test_png_and_uncompressed_masks_hold_the_same_pixels() -> None:
    for compressed, plain, png in zip(
        answer().detections, answer(mask="rle_uncompressed").detections, answer(mask="png").detections, strict=True
    ):
        assert isinstance(compressed.mask, RleMask)
        assert isinstance(png.mask, PngMask)
        pixels = coco.decode({"size": [64, 64], "counts": compressed.mask.counts}).astype(bool)
        decoded_png = np.asarray(Image.open(io.BytesIO(base64.b64decode(png.mask.png))))
        np.testing.assert_array_equal(decoded_png, pixels)
        assert isinstance(plain.mask, UncompressedRleMask)
        np.testing.assert_array_equal(rle.to_mask(rle.check(plain.mask.counts, (64, 64)), (64, 64)), pixels)


def test_polygon_masks_hold_the_same_pixels() -> None:
    for compressed, found in zip(answer().detections, answer(mask="polygon").detections, strict=True):
        assert isinstance(compressed.mask, RleMask)
        assert isinstance(found.mask, PolygonMask)
        ((exterior,),) = found.mask.coordinates
        assert exterior[0] == exterior[-1]
        (their_rle,) = coco.frPyObjects([np.ravel(exterior).astype(float).tolist()], 64, 64)
        pixels = coco.decode({"size": [64, 64], "counts": compressed.mask.counts})
        np.testing.assert_array_equal(coco.decode(their_rle), pixels)


def test_boxes_without_area_and_numbers_that_are_none_are_dropped() -> None:
    rows = ROWS[:4].copy()
    rows[0, 1:5] = [40, 2, 50, 12]  # beyond the picture
    rows[1, 1] = np.nan
    rows[2, 5] = np.nan

    assert scores(answer(rows, score_threshold=0.2)) == [0.3]


def test_a_picture_without_detections() -> None:
    assert answer(ROWS[5:]).detections == []
    assert answer(ROWS[:0]).detections == []
