"""Bundles in int8, through the command: their files, their layers, their answers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from export.build_engine import main
from export.graph import int8
from server.contract.wire import PredictOptions
from server.engines import EngineName
from server.pipeline import Pipeline
from server.repository import load_bundle
from tests.export.test_precision_build import annotated  # noqa: F401 - a fixture

ENGINES: list[EngineName] = ["onnxruntime", "openvino"]


def picture(seed: int, height: int = 80, width: int = 120) -> np.ndarray[Any, np.dtype[np.uint8]]:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height)))


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    for seed in range(6):
        Image.fromarray(picture(seed)).save(folder / f"{seed}.png")
    return folder


def build(checkpoint: Path, output: Path, *options: str) -> int:
    return main(["--weights", str(checkpoint), "--output", str(output), "--precision", "int8", *options])


@pytest.fixture(scope="module")
def int8_bundle(checkpoint: Path, calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of the tiny model. Not to be changed."""
    output = tmp_path_factory.mktemp("int8") / "tiny"
    assert build(checkpoint, output, "--calibration", str(calibration)) == 0
    return output


@pytest.fixture
def quick_trace(monkeypatch: pytest.MonkeyPatch, traced: onnx.ModelProto) -> None:
    monkeypatch.setattr("export.graph.trace.trace", lambda model: traced)


def verification(bundle: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((bundle / "model.json").read_text())["verification"]
    return report


def test_one_file_for_both_engines(int8_bundle: Path) -> None:
    pytest.importorskip("openvino")
    files = load_bundle(int8_bundle).card.files
    assert [(file.path, file.engine, file.precision) for file in files] == [
        ("model.onnx", "onnxruntime", "int8"),
        ("model.onnx", "openvino", "int8"),
    ]
    assert sorted(path.name for path in int8_bundle.iterdir()) == ["model.json", "model.onnx"]


def test_the_report_says_what_each_part_costs(int8_bundle: Path) -> None:
    report = verification(int8_bundle)
    assert (report["verdict"], report["precision"]) == ("accepted", "int8")
    assert 0.3 < report["agreement"] <= 1
    parts = report["int8"]
    assert parts["calibration_pictures"] == 6
    assert parts["precise"] == ["predictors"]
    assert list(parts["sensitivity"]) == list(int8.PARTS)
    assert all(0 <= moved < 1 for moved in parts["sensitivity"].values())
    assert any(moved > 0 for moved in parts["sensitivity"].values())


def test_layers_are_int8_and_predictors_are_not(int8_bundle: Path, traced: onnx.ModelProto) -> None:
    graph = onnx.load(int8_bundle / "model.onnx").graph
    made = {name: node for node in graph.node for name in node.output}
    weights = {value.name: value for value in graph.initializer}
    quantised, precise = set(), set()
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            (precise if node.input[1] in weights else quantised).add(node.input[1])
            if node.input[1] in made:
                dequantised = made[node.input[1]]
                assert weights[dequantised.input[0]].data_type == onnx.TensorProto.INT8
                assert len(weights[dequantised.input[1]].dims) == 1, "a scale a channel"
                assert made[node.input[0]].op_type == "DequantizeLinear"
    predictors = ("rpn_head.logits", "rpn_head.deltas", "box_head.class_logits", "box_head.deltas", "mask_head.logits")
    assert {name.rpartition(".")[0] for name in precise} == set(predictors)
    assert len(quantised) == 20 + 8 + 1 + 1 + 2, "ResNet-18, pyramid, RPN, box head, mask head"
    assert not {node.op_type for node in graph.node if node.op_type.startswith("QLinear")}


def test_openvino_runs_them_in_int8(int8_bundle: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().compile_model(str(int8_bundle / "model.onnx"), "CPU").get_runtime_model()
    kinds = [(op.get_rt_info()["layerType"].astype(str), op.get_rt_info()["runtimePrecision"].astype(str))
             for op in model.get_ops()]  # fmt: skip
    convolutions = [precision for kind, precision in kinds if kind in ("Convolution", "Deconvolution")]
    assert sum(precision in ("u8", "i8") for precision in convolutions) >= 30


def test_onnx_runtime_runs_them_in_int8(int8_bundle: Path, tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(int8_bundle / "model.onnx", options)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("QLinearConv") >= 30
    assert operators.count("QLinearAdd") == 8 + 3, "shortcuts, pyramid"


@pytest.mark.parametrize("engine", ENGINES)
def test_it_answers_in_batches_and_on_any_canvas(int8_bundle: Path, tiny_bundle: Path, engine: EngineName) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    served, full = Pipeline.open(int8_bundle, engine), Pipeline.open(tiny_bundle, engine)
    options = PredictOptions(score_threshold=0.5)
    for shape in ((80, 120), (120, 80), (100, 100)):
        pictures = [picture(seed, *shape) for seed in (7, 8)]
        canvases = [served.prepare(one) for one in pictures]
        for one, rows, canvas in zip(pictures, served.infer(canvases), canvases, strict=True):
            found, expected = served.finish(canvas, rows, options), full.predict(one, options)
            assert found.detections[0].class_id == expected.detections[0].class_id
            assert found.detections[0].score == pytest.approx(expected.detections[0].score, abs=0.1)


@pytest.mark.usefixtures("quick_trace")
def test_annotated_pictures_judge_it(
    tmp_path: Path,
    checkpoint: Path,
    calibration: Path,
    annotated: Path,  # noqa: F811
) -> None:
    """The truth is PyTorch's own answer, which int8 cannot repeat to the last pixel: what it loses is told."""
    options = ("--calibration", str(calibration), "--verify", str(annotated), "--max-loss", "90")
    assert build(checkpoint, tmp_path / "tiny", *options) == 0
    for kind, judged in verification(tmp_path / "tiny")["average_precision"].items():
        assert judged["pytorch"] == 1.0, kind
        assert 0.1 < judged["bundle"] <= 1.0


@pytest.mark.usefixtures("quick_trace")
def test_too_much_loss_is_refused(
    tmp_path: Path,
    checkpoint: Path,
    calibration: Path,
    annotated: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ranges that hold half of the values only: three parts are spared one by one, and it is not enough."""
    monkeypatch.setattr(int8, "PERCENTILE", 50.0)
    options = ("--calibration", str(calibration), "--verify", str(annotated))
    status = build(checkpoint, tmp_path / "tiny", *options)
    said = " ".join(capsys.readouterr().err.split())
    assert status == 3
    assert said.count("stays in fp32") == 3
    assert "more than 1.0 is lost. Nothing was written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param("", "--precision int8 needs --calibration DIR", id="no pictures named"),
        pytest.param("--calibration missing", "missing is not a folder of pictures.", id="no such folder"),
        pytest.param("--calibration empty", "empty holds no pictures.", id="empty"),
        pytest.param("--calibration few", "at least 4 pictures; few has 3.", id="too few"),
        pytest.param("--calibration few --engine tensorrt", "--precision int8 is for --engine onnx", id="tensorrt"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, count in (("empty", 0), ("few", 3)):
        (tmp_path / folder).mkdir()
        for seed in range(count):
            Image.fromarray(picture(seed)).save(tmp_path / folder / f"{seed}.png")
    assert build(checkpoint, tmp_path / "out", *options.split()) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_calibration_is_for_int8(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--weights", str(checkpoint), "--output", str(tmp_path / "o"), "--calibration", str(tmp_path)])
    assert status == 2
    assert "--calibration is for --precision int8." in capsys.readouterr().err
