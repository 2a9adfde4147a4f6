"""Every form of annotation that COCO files hold, and what is said of broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from export.training.coco import CocoSet
from export.training.dataset import DatasetError, UnitedSet, ground_truth
from export.training.shapes import ShapesSet

HEIGHT, WIDTH = 20, 30

SQUARE = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
SQUARE[5:10, 4:12] = 1
COMPRESSED = {
    "size": [HEIGHT, WIDTH],
    "counts": coco_mask.encode(np.asfortranarray(SQUARE))["counts"].decode("ascii"),
}
# column-major: 4 empty columns and 5 rows, then 5 set and 15 not for each of 8 columns
RUNS = [4 * HEIGHT + 5, *[5, 15] * 7, 5, 15 - 5 + 18 * HEIGHT]
UNCOMPRESSED = {"size": [HEIGHT, WIDTH], "counts": RUNS}
POLYGON = [[4, 5, 12, 5, 12, 10, 4, 10]]
TWO_POLYGONS = [[4, 5, 8, 5, 8, 10, 4, 10], [8, 5, 12, 5, 12, 10, 8, 10]]


def annotation(segmentation: Any, image_id: int = 7, **others: Any) -> dict[str, Any]:
    return {"id": 41, "image_id": image_id, "category_id": 9, "segmentation": segmentation, "iscrowd": 0, **others}


def write(root: Path, annotations: list[dict[str, Any]], modes: tuple[str, ...] = ("RGB",)) -> Path:
    """Pictures with ids from 7, one a mode; categories 3 and 9."""
    (root / "annotations").mkdir()
    (root / "train").mkdir()
    images = []
    for offset, mode in enumerate(modes):
        picture = Image.new("L", (WIDTH, HEIGHT), 90).convert(mode)
        picture.save(root / "train" / f"{offset}.png")
        images.append({"id": 7 + offset, "file_name": f"{offset}.png", "height": HEIGHT, "width": WIDTH})
    categories = [{"id": 9, "name": "tree"}, {"id": 3, "name": "cat"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return root


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param(COMPRESSED, id="compressed"),
        pytest.param(UNCOMPRESSED, id="uncompressed"),
        pytest.param(POLYGON, id="polygon"),
        pytest.param(TWO_POLYGONS, id="two polygons"),
    ],
)
def test_every_form_of_segmentation_gives_the_same_mask(tmp_path: Path, segmentation: Any) -> None:
    picture = CocoSet(write(tmp_path, [annotation(segmentation)]), "train")[0]
    assert np.array_equal(coco_mask.decode(picture.rles[0]), SQUARE)


def test_category_gaps_close_in_the_order_of_ids(tmp_path: Path) -> None:
    found = CocoSet(write(tmp_path, [annotation(POLYGON), annotation(POLYGON, category_id=3)]), "train")
    assert found.classes == ("background", "cat", "tree")
    assert found[0].class_ids.tolist() == [2, 1]


def test_crowds_and_pictures_without_objects(tmp_path: Path) -> None:
    crowd = annotation(UNCOMPRESSED, iscrowd=1)
    found = CocoSet(write(tmp_path, [annotation(POLYGON), crowd], modes=("RGB", "RGB")), "train")
    assert found[0].crowd.tolist() == [False, True]
    assert found[1].rles == ()
    assert found[1].class_ids.shape == (0,)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1"])
def test_pictures_of_every_mode_come_as_rgb(tmp_path: Path, mode: str) -> None:
    image = CocoSet(write(tmp_path, [], modes=(mode,)), "train")[0].image
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert np.ptp(image[0, 0]) == 0
    assert mode == "1" or image[0, 0, 0] == 90


@pytest.mark.parametrize(
    ("segmentation", "complaint"),
    [
        pytest.param([[1, 2, 3, 4, 5]], "odd number of coordinates", id="odd"),
        pytest.param([[1, 2, 3, 4]], "2 points", id="two points"),
        pytest.param([], "empty", id="no polygon"),
        pytest.param([[1, 2, 3, 4, 5, "6"]], "not a finite number", id="text"),
        pytest.param([[1, 2, 3, 4, 5, float("nan")]], "not a finite number", id="nan"),
        pytest.param([7, 8, 9], "not a list", id="flat"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "do not add up", id="short runs"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [-5, 605]}, "negative", id="negative run"),
        pytest.param({"size": [9, 9], "counts": [81]}, "the picture is", id="other size"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": "0 ~"}, "character", id="bad character"),
        pytest.param({"size": [HEIGHT, WIDTH]}, "counts", id="no counts"),
        pytest.param("circle", "neither", id="text instead"),
    ],
)
def test_a_broken_segmentation_is_named(tmp_path: Path, segmentation: Any, complaint: str) -> None:
    root = write(tmp_path, [annotation(POLYGON) | {"id": 1}, annotation(segmentation)])
    with pytest.raises(DatasetError) as caught:
        CocoSet(root, "train")
    assert "instances_train.json" in str(caught.value)
    assert "annotation 41" in str(caught.value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        pytest.param({"image_id": 99}, "99 is not among the images", id="image"),
        pytest.param({"category_id": 1}, "1 is not among the categories", id="category"),
    ],
)
def test_a_dangling_id_is_named(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DatasetError, match=complaint):
        CocoSet(write(tmp_path, [annotation(POLYGON) | changes]), "train")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"instances_val\.json: no such file"):
        CocoSet(tmp_path, "val")
    root = write(tmp_path, [])
    (root / "train" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"0\.png"):
        CocoSet(root, "train")[0]
    (root / "train" / "0.png").unlink()
    with pytest.raises(DatasetError, match=r"picture 0\.png is not in"):
        CocoSet(root, "train")
    (root / "annotations" / "instances_train.json").write_text("{")
    with pytest.raises(DatasetError, match="JSON"):
        CocoSet(root, "train")
    (root / "annotations" / "instances_train.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match="no list of categories"):
        CocoSet(root, "train")


def test_a_picture_of_another_size_than_stated_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, [])
    Image.new("RGB", (8, 9)).save(root / "train" / "0.png")
    with pytest.raises(DatasetError, match=r"is 8x9, but .* says 30x20"):
        CocoSet(root, "train")[0]


def test_the_cache_keeps_to_its_room(tmp_path: Path) -> None:
    root = write(tmp_path, [], modes=("RGB", "RGB"))
    roomy, tight = CocoSet(root, "train", cache_mb=1), CocoSet(root, "train", cache_mb=0)
    assert roomy[0] is roomy[0]
    kept = tight[0]
    assert tight[1].name == "1.png"
    assert tight[0] is not kept


def test_sets_unite_by_class_name_and_keep_what_each_looked_for(tmp_path: Path) -> None:
    shapes = ShapesSet(3, 32)
    coco = CocoSet(write(tmp_path, [annotation(POLYGON)]), "train")
    united = UnitedSet([shapes, coco])
    assert len(united) == 4
    assert united.classes == ("background", "circle", "square", "triangle", "cat", "tree")
    assert united[3].class_ids.tolist() == [5]
    assert united.active(0).tolist() == [True, True, True, True, False, False]
    assert united.active(3).tolist() == [True, False, False, False, True, True]
    with pytest.raises(IndexError):
        united[4]


def test_ground_truth_of_chosen_pictures(tmp_path: Path) -> None:
    crowd = annotation(UNCOMPRESSED, iscrowd=1)
    found = CocoSet(write(tmp_path, [annotation(POLYGON, image_id=8), crowd | {"image_id": 8}], ("L", "L")), "train")
    document = ground_truth(found, [1])
    assert [i["id"] for i in document["images"]] == [1]
    assert [a["bbox"] for a in document["annotations"]] == [[4, 5, 8, 5]] * 2
    assert [a["area"] for a in document["annotations"]] == [40, 40]
    assert [a["iscrowd"] for a in document["annotations"]] == [0, 1]
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "tree"}]


def test_shapes_are_made_by_the_seed_alone() -> None:
    first, again, other = ShapesSet(4, 48, seed=3), ShapesSet(4, 48, seed=3), ShapesSet(4, 48, seed=4)
    backwards = [again[i] for i in (3, 2, 1, 0)][::-1]
    assert all(np.array_equal(first[i].image, backwards[i].image) for i in range(4))
    assert not np.array_equal(first[0].image, other[0].image)
    masks = [coco_mask.decode(r) for i in range(4) for r in first[i].rles]
    assert len(masks) >= 4
    assert all(m.any() for m in masks)
