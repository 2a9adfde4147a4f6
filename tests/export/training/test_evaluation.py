"""Average precision of predictions that are known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from export.model.config import InputConfig
from export.model.mask_rcnn import MaskRCNN
from export.training.dataset import Picture
from export.training.evaluation import evaluate, predict
from export.training.shapes import ShapesSet
from export.training.sheet import TILE, save_sheet
from tests.export.training.small import SIZE, small_model_config


class OneSquare(ShapesSet):
    """A square at (16, 8, 48, 40) in a picture of 64, class 2."""

    def __getitem__(self, index: int) -> Picture:
        mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
        mask[8:40, 16:48] = 1
        rle = coco_mask.encode(np.asfortranarray(mask))
        return Picture("square", mask[..., None].repeat(3, 2), (rle,), np.array([2]), np.array([False]))


class Oracle(MaskRCNN):
    """Finds the square, as the network would say it on a canvas of twice the picture, and a padding row."""

    def __init__(self, box: tuple[float, float, float, float], class_id: int) -> None:
        super().__init__(small_model_config(input=InputConfig(min_size=2 * SIZE, max_size=2 * SIZE)))
        self.row = [0.0, *(2 * v for v in box), 0.9, float(class_id)]

    def forward(self, images: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
        assert images.shape == (1, 2 * SIZE, 2 * SIZE, 3)
        assert windows.tolist() == [[0, 0, 2 * SIZE, 2 * SIZE]]
        return torch.tensor([self.row, [0.0] * 7]), torch.ones(2, 28, 28)


@pytest.mark.parametrize(
    ("box", "class_id", "ap", "ap50"),
    [
        pytest.param((16, 8, 48, 40), 2, 1.0, 1.0, id="perfect"),
        pytest.param((16, 8, 48, 40), 1, 0.0, 0.0, id="wrong class"),
        # half the square: IoU 0.5 counts at the first of ten thresholds
        pytest.param((16, 8, 48, 24), 2, 0.1, 1.0, id="half"),
    ],
)
def test_precision_of_known_answers(box: tuple[int, int, int, int], class_id: int, ap: float, ap50: float) -> None:
    found = evaluate(Oracle(box, class_id), OneSquare(1, SIZE), [0])
    assert found is not None
    for kind in ("box", "mask"):
        assert found[f"{kind}_ap"] == pytest.approx(ap)
        assert found[f"{kind}_ap50"] == pytest.approx(ap50)


def test_predictions_are_in_the_picture_and_without_padding() -> None:
    found = predict(Oracle((16, 8, 48, 40), 2), OneSquare(1, SIZE)[0].image)
    assert found.boxes.tolist() == [[16, 8, 48, 40]]
    assert found.class_ids.tolist() == [2]
    assert found.scores.tolist() == [pytest.approx(0.9)]
    assert coco_mask.toBbox(found.rles[0]).tolist() == [16, 8, 32, 32]
    assert coco_mask.area(found.rles[0]) == 32 * 32


def test_an_evaluation_can_be_stopped() -> None:
    assert evaluate(Oracle((16, 8, 48, 40), 2), OneSquare(1, SIZE), [0], stopped=lambda: True) is None


def test_a_sheet_shows_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "sheets" / "step.png"
    save_sheet(Oracle((16, 8, 48, 40), 2), OneSquare(4, SIZE), range(4), path)
    with Image.open(path) as sheet:
        assert sheet.size == (3 * TILE, 2 * TILE)
        assert len(set(sheet.crop((0, 0, TILE, TILE)).get_flattened_data())) > 3
