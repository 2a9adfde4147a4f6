"""Roboflow's inference-sdk asks for instance segmentation, and supervision reads what it gets."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision
from inference_sdk import InferenceConfiguration, InferenceHTTPClient
from inference_sdk.http.errors import HTTPCallErrorError
from PIL import Image
from pycocotools import mask as coco_mask

from clients import Client
from clients.prediction import Prediction


def roboflow(url: str, **configuration: Any) -> InferenceHTTPClient:
    client = InferenceHTTPClient(api_url=url, api_key="any")
    return client.configure(InferenceConfiguration(api_key_transport="legacy", **configuration))


@pytest.fixture
def truth(server_url: str, pictures: list[Path]) -> Iterator[Prediction]:
    """Of the first picture."""
    with Client(server_url) as client:
        yield client.predict(pictures[0])


def without_holes(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask, as OpenCV fills its outline."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(filled, [max(contours, key=cv2.contourArea)], 1)
    return filled.astype(bool)


@pytest.mark.parametrize("form", ["rle", "polygon"])
def test_supervision_reads_the_masks_of_predict(
    server_url: str, pictures: list[Path], truth: Prediction, form: str
) -> None:
    client = roboflow(server_url, response_mask_format=form)
    found = supervision.Detections.from_inference(client.infer(str(pictures[0]), model_id="demo/1"))
    assert len(found) == len(truth) > 10
    assert set(found["class_name"]) == {"nucleus"}
    for detection, mask, box, score in zip(truth, found.mask, found.xyxy, found.confidence, strict=True):
        expected = coco_mask.decode(detection.encoded_mask).astype(bool)
        assert (mask == expected).all() if form == "rle" else (mask == without_holes(expected)).all()
        assert np.allclose(box, detection.box)
        assert score == detection.score


@pytest.mark.parametrize("model_id", ["demo", "demo/1"])
def test_what_a_configuration_says_is_done(server_url: str, pictures: list[Path], model_id: str) -> None:
    client = roboflow(server_url, confidence_threshold=0.9, max_detections=3, class_filter=["nucleus"])
    answer = client.infer(np.asarray(Image.open(pictures[0]).convert("RGB")), model_id=model_id)
    assert len(answer["predictions"]) == 3
    assert all(found["confidence"] >= 0.9 for found in answer["predictions"])
    assert answer["time"] > 0


def test_several_pictures_in_requests_of_two(server_url: str, pictures: list[Path]) -> None:
    client = roboflow(server_url, max_batch_size=2)
    answers = client.infer([str(path) for path in pictures[:3]], model_id="demo")
    sizes = [Image.open(path).size for path in pictures[:3]]
    assert [(answer["image"]["width"], answer["image"]["height"]) for answer in answers] == sizes


def test_the_older_api(server_url: str, pictures: list[Path], truth: Prediction) -> None:
    client = roboflow(f"{server_url}/infer", response_mask_format="rle").select_api_v0()
    found = supervision.Detections.from_inference(client.infer(str(pictures[0]), model_id="demo/1"))
    assert len(found) == len(truth)
    assert found.mask is not None
    few = client.configure(InferenceConfiguration(confidence_threshold=0.99, api_key_transport="legacy"))
    assert len(few.infer(str(pictures[0]), model_id="demo/1")["predictions"]) < len(truth)


def test_models_and_the_server(server_url: str) -> None:
    client = roboflow(server_url)
    assert [model.model_id for model in client.list_loaded_models().models] == ["demo", "demo/1"]
    assert client.get_model_description("demo/1").task_type == "instance-segmentation"
    assert [model.model_id for model in client.load_model("demo").models] == ["demo", "demo/1"]
    assert client.get_server_info().name == "Maskline"


def test_the_script_of_the_page(server_url: str, pictures: list[Path], tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "roboflow.md").read_text()
    found = re.search(r"<!-- script -->\n```python\n(.*?)```\n<!-- end of script -->", page, re.DOTALL)
    assert found is not None
    (tmp_path / "pictures").symlink_to(pictures[0].parent)
    script = found[1].replace("http://127.0.0.1:8000", server_url)
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(run.stdout.split()[0]) > 10
    assert Image.open(tmp_path / "masks.png").size == Image.open(pictures[0].parent / "histology-1.png").size


def test_errors_are_sentences(server_url: str, pictures: list[Path]) -> None:
    client = roboflow(server_url, class_filter=["unicorn"])
    with pytest.raises(HTTPCallErrorError) as refused:
        client.infer(str(pictures[0]), model_id="demo")
    assert refused.value.status_code == 400
    assert "the model has no class 'unicorn'" in refused.value.api_message
    with pytest.raises(HTTPCallErrorError) as missing:
        client.infer(str(pictures[0]), model_id="other/7")
    assert missing.value.status_code == 404
    assert "There is no model 'other'" in missing.value.api_message
