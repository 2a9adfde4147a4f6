from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from server.contract.errors import BadParameter, BadPictureInBatch, UndecodablePicture
from server.contract.wire import PredictBody, PredictOptions, PredictResponse, Problem

ANSWER: dict[str, Any] = {
    "model": {"name": "shapes", "version": "1"},
    "request_id": "r",
    "images": [
        {
            "width": 3,
            "height": 4,
            "detections": [
                {
                    "box": [0.0, 0.0, 1.0, 1.0],
                    "class_id": 1,
                    "class_name": "disc",
                    "score": 0.5,
                    "area": 1,
                    "mask": {"size": [4, 3], "counts": "01;"},
                }
            ],
        }
    ],
    "timings_ms": {"decode": 1.0, "queue": 0.0, "inference": 9.5, "postprocess": 0.2, "total": 11.0},
    "batch_size": 1,
}


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param({"size": [4, 3], "counts": "01;"}, id="rle"),
        pytest.param({"size": [4, 3], "counts": [0, 1, 11]}, id="rle_uncompressed"),
        pytest.param({"size": [4, 3], "png": "iVBORw0KGgo="}, id="png"),
        pytest.param(
            {"type": "MultiPolygon", "size": [4, 3], "coordinates": [[[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]]},
            id="polygon",
        ),
        pytest.param({"type": "MultiPolygon", "size": [4, 3], "coordinates": []}, id="polygon of an empty mask"),
        pytest.param(None, id="none"),
    ],
)
def test_an_answer_survives_reading_and_writing(mask: object) -> None:
    answer = json.loads(json.dumps(ANSWER))
    answer["images"][0]["detections"][0]["mask"] = mask
    schema = TypeAdapter(PredictResponse)

    parsed = schema.validate_json(json.dumps(answer))

    assert json.loads(schema.dump_json(parsed)) == answer


def test_unknown_fields_of_an_answer_are_refused() -> None:
    with pytest.raises(ValidationError, match="surprise"):
        TypeAdapter(PredictResponse).validate_python({**ANSWER, "surprise": 1})


def test_problem_document() -> None:
    problem = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "No.", "request_id": "r"}

    assert TypeAdapter(Problem).validate_python(problem).status == 404


def test_options_of_a_query() -> None:
    query = {
        "model": "shapes",
        "score_threshold": "0.25",
        "max_detections": "7",
        "classes": "disc, 2,",
        "mask": "none",
        "timeout_ms": "1500",
    }

    options = PredictOptions.from_query(query)

    assert options == PredictOptions(
        model="shapes", score_threshold=0.25, max_detections=7, classes=("disc", "2"), mask="none", timeout_ms=1500
    )


def test_options_left_out() -> None:
    options = PredictOptions.from_query({})

    assert options.mask == "rle"
    assert options.score_threshold is None
    assert options.classes is None
    assert PredictOptions.from_query({"classes": ""}).classes is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_threshold", "high"),
        ("score_threshold", "nan"),
        ("score_threshold", "1.5"),
        ("score_threshold", "-0.1"),
        ("max_detections", "0"),
        ("max_detections", "many"),
        ("mask", "jpeg"),
        ("timeout_ms", "-5"),
        ("treshold", "0.5"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: str) -> None:
    with pytest.raises(BadParameter, match=name):
        PredictOptions.from_query({name: value})


def test_one_picture_in_json() -> None:
    body = json.dumps({"image": base64.b64encode(b"picture").decode()}).encode()

    assert PredictBody.from_json(body).pictures() == [b"picture"]


def test_several_pictures_in_json_with_line_breaks_in_the_base64() -> None:
    body = json.dumps({"images": [base64.encodebytes(bytes([k]) * 100).decode() for k in range(3)]}).encode()

    assert PredictBody.from_json(body).pictures() == [bytes([k]) * 100 for k in range(3)]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="no picture"),
        pytest.param(b'{"images": []}', id="no pictures"),
        pytest.param(b'{"image": "", "images": [""]}', id="both"),
        pytest.param(b'{"image": 5}', id="a number"),
        pytest.param(b'{"image": "\xff"}', id="not UTF-8"),
        pytest.param(b'{"picture": ""}', id="another name"),
    ],
)
def test_a_wrong_json_body_is_refused(body: bytes) -> None:
    with pytest.raises(BadParameter, match="JSON body"):
        PredictBody.from_json(body)


@pytest.mark.parametrize("text", ["!!", "abc", "\u00e9\u00e9\u00e9\u00e9"])
def test_wrong_base64_is_refused(text: str) -> None:
    with pytest.raises(UndecodablePicture, match="base64"):
        PredictBody.from_json(json.dumps({"image": text}).encode()).pictures()


def test_wrong_base64_among_several_names_the_picture() -> None:
    body = PredictBody.from_json(b'{"images": ["aGFsbG8=", "!!"]}')

    with pytest.raises(BadPictureInBatch, match="Picture 1 ") as caught:
        body.pictures()
    assert caught.value.index == 1
