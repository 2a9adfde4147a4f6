"""Bundles in half precision and with a plan of TensorRT, through the command: their cards, reports and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from PIL import Image

from export.build_engine import main
from export.model.mask_rcnn import MaskRCNN
from export.tensorrt_plan import Plan, PlanRequest
from export.torch_engine import TorchEngine
from server.contract.wire import PredictOptions, RleMask
from server.engines import create_engine
from server.engines.base import Canvases, Detections, Float32
from server.engines.onnxruntime_ import OnnxRuntimeEngine
from server.pipeline import Pipeline
from server.repository import Bundle, load_bundle

CANVASES = [(96, 96), (96, 128), (96, 160), (128, 96), (160, 96)]
"""By default, for pictures of 96 to 160 pixels."""


@pytest.fixture(scope="module")
def half_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of the tiny model in fp16. Not to be changed."""
    output = tmp_path_factory.mktemp("half") / "tiny"
    assert main(["--weights", str(checkpoint), "--output", str(output), "--precision", "fp16"]) == 0
    return output


@pytest.fixture
def quick_trace(monkeypatch: pytest.MonkeyPatch, traced: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that the command gets of the tracer, to be changed by the test."""
    monkeypatch.setattr("export.graph.trace.trace", lambda model: traced)
    return traced


@pytest.fixture
def quick_half_trace(monkeypatch: pytest.MonkeyPatch, half_bundle: Path) -> onnx.ModelProto:
    proto = onnx.load(half_bundle / "model.onnx")
    monkeypatch.setattr("export.graph.trace.trace", lambda model: proto)
    return proto


@pytest.fixture(scope="module")
def annotated(tiny_model: MaskRCNN, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO data whose truth is what PyTorch finds in its pictures, so that PyTorch's AP is 1."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "val").mkdir()
    pipeline = Pipeline(TorchEngine(tiny_model, load_bundle(tiny_bundle).card))
    images, annotations = [], []
    for image_id in (3, 4, 5):
        noise = np.random.default_rng(image_id).integers(0, 256, (80, 120, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(noise[::8, ::8]).resize((120, 80)))
        Image.fromarray(picture).save(folder / "val" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": 120, "height": 80})
        for found in pipeline.predict(picture, PredictOptions(score_threshold=0.0, max_detections=20)).detections:
            x1, y1, x2, y2 = found.box
            assert isinstance(found.mask, RleMask)
            mask = {"size": list(found.mask.size), "counts": found.mask.counts}
            place = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": found.area, "segmentation": mask, "iscrowd": 0}
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": found.class_id * 10, **place}
            )
    categories = [{"id": 10, "name": "circle"}, {"id": 20, "name": "square"}]
    (folder / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder


def build(checkpoint: Path, output: Path, *options: str) -> int:
    return main(["--weights", str(checkpoint), "--output", str(output), *options])


def verification(bundle: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((bundle / "model.json").read_text())["verification"]
    return report


def test_a_bundle_in_half_says_so_and_what_agrees(half_bundle: Path) -> None:
    (file,) = load_bundle(half_bundle).card.files
    assert (file.path, file.engine, file.precision) == ("model.onnx", "onnxruntime", "fp16")
    report = verification(half_bundle)
    assert (report["verdict"], report["precision"], report["tolerance"]["box_px"]) == ("accepted", "fp16", 1.0)
    assert 0.5 < report["agreement"] == round(report["agreeing"] / report["detections"], 4)
    assert report["average_precision"] == {}


def test_the_networks_are_in_half_and_the_answers_in_float32(half_bundle: Path) -> None:
    graph = onnx.load(half_bundle / "model.onnx").graph
    types = {value.name: value.data_type for value in graph.initializer}
    assert types["box_head.class_logits.weight"] == types["fpn.output.0.0.weight"] == TensorProto.FLOAT16
    assert {value.type.tensor_type.elem_type for value in graph.output} == {TensorProto.FLOAT}


def test_a_bundle_in_half_answers(half_bundle: Path, tiny_bundle: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    options = PredictOptions(score_threshold=0.5)
    half, full = (Pipeline.open(bundle).predict(picture, options) for bundle in (half_bundle, tiny_bundle))
    assert len(full.detections) > 0
    assert half.detections[0].class_id == full.detections[0].class_id
    assert half.detections[0].score == pytest.approx(full.detections[0].score, abs=0.02)


@pytest.mark.usefixtures("quick_trace")
def test_annotated_pictures_are_judged(
    tmp_path: Path, checkpoint: Path, annotated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(checkpoint, tmp_path / "tiny", "--verify", str(annotated)) == 0
    perfect = {"pytorch": 1.0, "bundle": 1.0, "pytorch_exact_canvases": None}
    assert verification(tmp_path / "tiny")["average_precision"] == {"box": perfect, "mask": perfect}
    assert "100.0, PyTorch's 100.0" in capsys.readouterr().err


def test_a_half_bundle_that_costs_precision_is_refused(
    tmp_path: Path,
    checkpoint: Path,
    annotated: Path,
    quick_half_trace: onnx.ModelProto,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(quick_half_trace, "box_head.deltas.weight", lambda weights: weights * np.float16(30))  # boxes move
    status = build(checkpoint, tmp_path / "tiny", "--precision", "fp16", "--verify", str(annotated))
    said = " ".join(capsys.readouterr().err.split())
    assert status == 3
    assert "PyTorch's 100.0: more than 1.0 is lost. Nothing was written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", [np.inf, -1.0])
def test_a_half_bundle_that_answers_nonsense_is_refused(
    tmp_path: Path,
    checkpoint: Path,
    quick_half_trace: onnx.ModelProto,
    capsys: pytest.CaptureFixture[str],
    weights: float,
) -> None:
    change(quick_half_trace, "rpn_head.logits.weight", lambda values: values * np.float16(weights))
    change(quick_half_trace, "box_head.class_logits.weight", lambda values: values * np.float16(weights))
    assert build(checkpoint, tmp_path / "tiny", "--precision", "fp16") == 3
    assert "refused" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def change(proto: onnx.ModelProto, name: str, new: Callable[[Any], Any]) -> None:
    tensor = next(value for value in proto.graph.initializer if value.name == name)
    with np.errstate(invalid="ignore"):
        tensor.CopyFrom(numpy_helper.from_array(new(numpy_helper.to_array(tensor)).astype(np.float16), name))


@pytest.mark.usefixtures("quick_trace")
def test_weights_beyond_half_are_named(
    tmp_path: Path, tiny_model: MaskRCNN, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    tensors = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    tensors["mask_head.logits.weight"][0, 0] = 1e6
    values = {"maskline_checkpoint": 1, "config": tiny_model.config.to_dict(), "model": tensors}
    torch.save(values, tmp_path / "wide.pt")
    assert build(tmp_path / "wide.pt", tmp_path / "out", "--precision", "fp16") == 2
    assert "mask_head.logits.weight reaches 1e+06" in " ".join(capsys.readouterr().err.split())


class FakePlanEngine(OnnxRuntimeEngine):
    """Runs the ONNX file in the place of the plan, in batches of at most two."""

    max_batch = 2

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        assert len(images) <= self.max_batch
        return super().infer(images, windows)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, quick_trace: onnx.ModelProto) -> list[PlanRequest]:
    """What the builder of plans was asked for, on a machine that has one."""
    asked: list[PlanRequest] = []

    def build_plan(onnx_file: Path, request: PlanRequest, console: object) -> Plan:
        assert onnx.load(onnx_file).graph.name == quick_trace.graph.name
        asked.append(request)
        return Plan(b"a plan", "11.1.0.106", "9.0", request.profiles, ["Unused input: x"])

    monkeypatch.setattr("export.tensorrt_plan.check_machine", lambda *options: None)
    monkeypatch.setattr("export.tensorrt_plan.build_plan", build_plan)
    return asked


@pytest.fixture
def plan_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: Any, bundle: Bundle, **options: Any) -> Any:
        return FakePlanEngine(bundle) if name == "tensorrt" else create_engine(name, bundle, **options)

    monkeypatch.setattr("server.pipeline.create_engine", create)


@pytest.mark.usefixtures("plan_engine")
def test_a_plan_stands_beside_the_onnx_file(
    tmp_path: Path, checkpoint: Path, requests: list[PlanRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tiny"
    assert build(checkpoint, output, "--engine", "tensorrt") == 0
    card = load_bundle(output).card  # the hashes are right
    assert card.input.canvases == CANVASES
    files = {file.engine: file for file in card.files}
    plan = files["tensorrt"]
    assert (plan.path, plan.precision) == ("model.plan", "fp32")
    assert (files["onnxruntime"].path, files["onnxruntime"].precision) == ("model.onnx", "fp32")
    assert (plan.tensorrt, plan.compute_capability) == ("11.1.0.106", "9.0")
    assert plan.profiles is not None
    assert [(profile.canvas, profile.max_batch) for profile in plan.profiles] == [(canvas, 8) for canvas in CANVASES]
    assert requests == [PlanRequest(plan.profiles)]
    assert "TensorRT: Unused input: x" in capsys.readouterr().err


@pytest.mark.usefixtures("plan_engine")
def test_every_file_is_verified(tmp_path: Path, checkpoint: Path, requests: list[PlanRequest]) -> None:
    assert build(checkpoint, tmp_path / "tiny", "--engine", "tensorrt") == 0
    report = verification(tmp_path / "tiny")
    plan = report["model.plan"]
    assert (report["file"], plan["file"]) == ("model.onnx", "model.plan")
    assert report["verdict"] == plan["verdict"] == "accepted"
    assert plan["pictures"] == report["pictures"] == 4
    assert report["detections"] == plan["detections"] > 100
    blank = [part["pictures_without_detections"] for part in (report, plan)]
    assert blank == [4, 0], "the third of each batch is beyond the plan's largest"


@pytest.mark.usefixtures("plan_engine")
def test_what_the_list_of_canvases_costs_is_told(
    tmp_path: Path, checkpoint: Path, requests: list[PlanRequest], annotated: Path
) -> None:
    output = tmp_path / "tiny"
    assert build(checkpoint, output, "--engine", "tensorrt", "--canvas", "160x160", "--verify", str(annotated)) == 0
    for report in (verification(output), verification(output)["model.plan"]):
        box = report["average_precision"]["box"]
        assert box["pytorch_exact_canvases"] == 1.0  # the truth of these data
        assert box["bundle"] == box["pytorch"] < 1.0


@pytest.mark.usefixtures("plan_engine")
def test_options_reach_the_builder(tmp_path: Path, checkpoint: Path, requests: list[PlanRequest]) -> None:
    options = "--max-batch 3 --canvas 160x160 --workspace-gib 2 --version-compatible --hardware-compatible ampere+"
    cache = tmp_path / "timings"
    status = build(
        checkpoint, tmp_path / "tiny", "--engine", "tensorrt", *options.split(), "--timing-cache", str(cache)
    )
    assert status == 0
    (request,) = requests
    assert [(profile.canvas, profile.max_batch) for profile in request.profiles] == [((160, 160), 3)]
    assert (request.workspace_gib, request.timing_cache) == (2.0, cache)
    assert (request.version_compatible, request.hardware_compatible) == (True, "ampere+")


def test_nothing_is_fetched_for_a_plan_that_cannot_be_built_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("export.weights.resolve", lambda source: pytest.fail(f"{source} was asked for"))
    status = main(
        ["--weights", "torchvision:maskrcnn_resnet50_fpn", "--output", str(tmp_path / "o"), "--engine", "tensorrt"]
    )
    assert status == 2
    assert "TensorRT is not installed" in capsys.readouterr().err


@pytest.mark.usefixtures("requests")
def test_a_model_beyond_tensorrt_is_refused_before_anything_is_made(
    tmp_path: Path, tiny_model: MaskRCNN, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    config = tiny_model.config.to_dict()
    config["rpn"]["pre_nms_topk"] = 5000
    torch.save({"maskline_checkpoint": 1, "config": config, "model": tiny_model.state_dict()}, tmp_path / "greedy.pt")
    assert build(tmp_path / "greedy.pt", tmp_path / "out", "--engine", "tensorrt") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "best 5000 anchors of each level" in said
    assert "--engine onnx" in said
    assert not (tmp_path / "out").exists()


def test_a_plan_that_cannot_run_is_refused(
    tmp_path: Path,
    checkpoint: Path,
    requests: list[PlanRequest],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert build(checkpoint, tmp_path / "tiny", "--engine", "tensorrt") == 3
    assert "build_engine: model.plan cannot answer: " in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
