"""The build command: the bundle it makes, what it refuses, and the sentences and exit codes of both."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from export.build_engine import main
from export.model.mask_rcnn import MaskRCNN
from server.engines import openvino_
from server.pipeline import Pipeline
from server.repository import load_bundle

HAS_OPENVINO = openvino_.is_installed()


@pytest.fixture
def quick_trace(monkeypatch: pytest.MonkeyPatch, traced: onnx.ModelProto) -> None:
    """Saves the half minute of tracing where the test is not about it."""
    monkeypatch.setattr("export.graph.trace.trace", lambda model: traced)


@pytest.fixture
def wrong_trace(monkeypatch: pytest.MonkeyPatch, traced: onnx.ModelProto) -> None:
    """A graph that does not give the model's answers: its classes are swapped."""
    weight = next(t for t in traced.graph.initializer if t.name == "box_head.class_logits.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[[0, 2, 1]], weight.name))
    monkeypatch.setattr("export.graph.trace.trace", lambda model: traced)


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def build(checkpoint: Path, output: Path, *options: str) -> int:
    return main(["--weights", str(checkpoint), "--output", str(output), *options])


def card_of(bundle: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((bundle / "model.json").read_text())
    return card


def test_the_bundle_is_one_that_the_server_loads(tiny_bundle: Path, checkpoint: Path) -> None:
    card = load_bundle(tiny_bundle).card
    files = {"onnxruntime": "model.onnx"} | ({"openvino": "model.openvino.onnx"} if HAS_OPENVINO else {})
    assert {file.engine: file.path for file in card.files} == files
    assert {path.name for path in tiny_bundle.iterdir()} == {"model.json", *files.values()}
    assert (card.name, card.version, card.classes) == ("tiny", "1", ["background", "circle", "square"])
    assert (card.input.resize.min_size, card.input.resize.max_size, card.input.canvases) == (96, 160, "exact")
    limits = card.output
    assert (limits.max_detections, limits.score_threshold, limits.default_score_threshold) == (20, 0.05, 0.5)
    assert (limits.mask_size, limits.mask_paste, limits.nms_iou_threshold) == (28, "detectron2", 0.5)
    origin = card.provenance
    assert origin.weights_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (origin.family, origin.opset, origin.torch) == ("native", 20, torch.__version__)
    assert datetime.fromisoformat(origin.created).tzinfo is not None


def test_the_bundle_says_how_it_was_verified(tiny_bundle: Path) -> None:
    report = card_of(tiny_bundle)["verification"]
    assert report["verdict"] == "accepted"
    assert (report["pictures"], report["batches"]) == (4, 4)
    assert report["pictures_without_detections"] >= 4
    assert report["agreeing"] == report["detections"] > 100
    assert report["max_box_difference_px"] <= 0.01
    assert report["max_score_difference"] <= 1e-4
    assert report["mask_pixels"] > 10_000


def test_the_bundle_answers(tiny_bundle: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    answer = Pipeline.open(tiny_bundle).predict(picture)
    assert (answer.width, answer.height) == (120, 80)


def test_options_reach_the_card_and_the_graph(
    tmp_path: Path, checkpoint: Path, traced: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []

    def trace(model: MaskRCNN) -> onnx.ModelProto:
        configs.append(model.config)
        return traced

    monkeypatch.setattr("export.graph.trace.trace", trace)
    names = tmp_path / "names.txt"
    names.write_text("ring\n\nbox\n")
    options = "--max-detections 20 --score-threshold 0.05 --min-size 64 --max-size 128 --model-version 7"
    canvases = ["--canvas", "128x128", "128x96", "96X128"]
    status = build(checkpoint, tmp_path / "shapes", *options.split(), *canvases, "--classes", str(names))
    assert status == 0
    card = load_bundle(tmp_path / "shapes").card
    assert (card.name, card.version, card.classes) == ("shapes", "7", ["background", "ring", "box"])
    assert card.input.canvases == [(128, 128), (128, 96), (96, 128)]
    assert (card.input.resize.min_size, card.input.resize.max_size) == (64, 128)
    assert configs[0].classes == ("background", "ring", "box")
    assert (configs[0].detection.max_detections, configs[0].detection.score_threshold) == (20, 0.05)


def test_default_score_threshold_is_never_below_the_graph_s_own(
    tmp_path: Path, checkpoint: Path, quick_trace: None
) -> None:
    assert build(checkpoint, tmp_path / "strict", "--score-threshold", "0.97") == 0
    assert card_of(tmp_path / "strict")["output"]["default_score_threshold"] == 0.97


def test_verify_takes_a_folder_of_pictures(tmp_path: Path, checkpoint: Path, quick_trace: None) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        Image.effect_noise((90, 70), 60 + i).convert("RGB").save(tmp_path / "pictures" / f"{i}.png")
    assert build(checkpoint, tmp_path / "tiny", "--verify", str(tmp_path / "pictures")) == 0
    report = card_of(tmp_path / "tiny")["verification"]
    assert (report["pictures"], report["batches"]) == (2, 2)


def test_a_bundle_that_is_there_is_replaced_whole(
    tmp_path: Path, checkpoint: Path, tiny_bundle: Path, quick_trace: None
) -> None:
    output = tmp_path / "tiny"
    assert build(checkpoint, output) == 0
    (output / "model.engine").write_text("of the old one")
    assert build(checkpoint, output, "--model-version", "2") == 0
    assert card_of(output)["version"] == "2"
    assert sorted(p.name for p in output.iterdir()) == sorted(p.name for p in tiny_bundle.iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.usefixtures("wrong_trace")
def test_a_graph_that_answers_otherwise_is_refused_and_the_old_bundle_stays(
    tmp_path: Path, checkpoint: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tiny"
    output.mkdir()
    for file in tiny_bundle.iterdir():
        (output / file.name).write_bytes(file.read_bytes())
    assert build(checkpoint, output, "--model-version", "2") == 3
    message = " ".join(capsys.readouterr().err.split())
    assert "refused" in message
    assert "detections are not PyTorch's: in generated picture" in message
    assert load_bundle(output).card.version == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.usefixtures("wrong_trace")
def test_nothing_is_left_of_a_refused_bundle(tmp_path: Path, checkpoint: Path) -> None:
    assert build(checkpoint, tmp_path / "deep" / "tiny") == 3
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param("--engine tensorrt", "TensorRT is not installed. Install it (pip install", id="tensorrt"),
        pytest.param("--family detectron2", "is of the family native, not detectron2", id="family"),
        pytest.param("--max-batch 8", "--max-batch is for --engine tensorrt.", id="max batch"),
        pytest.param("--version-compatible", "--version-compatible is for --engine tensorrt.", id="other versions"),
        pytest.param("--hardware-compatible same", "--hardware-compatible is for --engine tensorrt.", id="other GPUs"),
        pytest.param("--timing-cache x --engine onnx", "--timing-cache is for --engine tensorrt.", id="timing cache"),
        pytest.param("--workspace-gib 2", "--workspace-gib is for --engine tensorrt.", id="workspace"),
        pytest.param("--config x.yaml", "x.yaml cannot be read as a configuration", id="config"),
        pytest.param("--bn-eps 0", "--bn-eps is for imported weights", id="bn eps"),
        pytest.param("--min-size 400", "shortest edge, 400, is above the limit of the longest, 160", id="sizes"),
        pytest.param("--canvas 100x96", "Canvas 100x96 is not a multiple of 32 on both sides.", id="canvas"),
        pytest.param(
            "--canvas 96x160", "No --canvas holds the largest pictures of the resize rule: add 160x96", id="hole"
        ),
        pytest.param("--classes absent.txt", "absent.txt cannot be read", id="no class file"),
        pytest.param("--verify absent", "absent is not a folder of pictures.", id="no pictures"),
        pytest.param("--model-version /", "version '/' cannot be used", id="version"),
    ],
)
@pytest.mark.usefixtures("quick_trace", "no_tensorrt")
def test_what_it_cannot_do_is_said_in_a_sentence(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], options: str, sentence: str
) -> None:
    assert build(checkpoint, tmp_path / "tiny", *options.split()) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--score-threshold", "1.5"], id="score above 1"),
        pytest.param(["--max-detections", "0"], id="no detections"),
        pytest.param(["--canvas", "large"], id="canvas in words"),
        pytest.param(["--precision", "fp8"], id="unknown precision"),
        pytest.param(["--workspace-gib", "0"], id="no workspace"),
        pytest.param(["--hardware-compatible", "all"], id="unknown compatibility"),
    ],
)
def test_wrong_values_are_wrong_usage(tmp_path: Path, checkpoint: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        build(checkpoint, tmp_path / "tiny", *options)
    assert exit_.value.code == 2


@pytest.mark.parametrize(
    ("names", "sentence"),
    [("one", "are 1, but the model has 2 classes"), ("one\none", "names a class twice")],
)
def test_class_files_that_do_not_fit(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], names: str, sentence: str
) -> None:
    (tmp_path / "names.txt").write_text(names)
    assert build(checkpoint, tmp_path / "tiny", "--classes", str(tmp_path / "names.txt")) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("absent.pt", "There is no weights file absent.pt."),
        ("torchvision:resnet50", "torchvision:maskrcnn_resnet50_fpn_v2"),
    ],
)
def test_weights_that_it_cannot_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, sentence: str
) -> None:
    assert main(["--weights", source, "--output", str(tmp_path / "out")]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_misshapen_weights_are_named(tmp_path: Path, tiny_model: MaskRCNN, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = dict(tiny_model.state_dict()) | {"box_head.deltas.bias": torch.zeros(8)}
    values = {"maskline_checkpoint": 1, "config": tiny_model.config.to_dict(), "model": tensors}
    torch.save(values, tmp_path / "bad.pt")
    assert build(tmp_path / "bad.pt", tmp_path / "out") == 2
    assert "misshapen: box_head.deltas.bias is 8, not 12." in " ".join(capsys.readouterr().err.lower().split())


def test_a_folder_that_is_no_bundle_is_left_alone(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    assert build(checkpoint, tmp_path) == 2
    assert "is not a bundle; it is left as it is" in " ".join(capsys.readouterr().err.split())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_output_that_cannot_be_written(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert build(checkpoint, tmp_path / "file" / "bundle") == 2
    assert "cannot be written" in " ".join(capsys.readouterr().err.split())


def test_without_an_output(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--weights", str(checkpoint)]) == 2
    assert "--output is missing" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", [["--inspect", "{}"], ["--weights", "{}", "--inspect"]])
def test_inspect_says_what_the_weights_are(
    checkpoint: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(checkpoint) for word in words]) == 0
    said = capsys.readouterr().out
    for fact in (
        "native",
        "torch archive",
        "ResNet-18",
        "2: circle, square",
        "shortest edge 96",
        "at most 20",
        "28 x 28",
    ):
        assert fact in said


def test_inspect_says_what_a_strange_file_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"fc.weight": torch.zeros(10, 4), "layer1.0.conv1.weight": torch.zeros(4, 4, 1, 1)}, tmp_path / "r.pth")
    assert main(["--inspect", str(tmp_path / "r.pth")]) == 2
    assert "classification" in " ".join(capsys.readouterr().err.split())


def test_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path / "out")]) == 2
    assert "--weights is missing" in capsys.readouterr().err


def test_a_build_that_is_stopped_leaves_nothing(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(model: MaskRCNN) -> onnx.ModelProto:
        raise KeyboardInterrupt

    monkeypatch.setattr("export.graph.trace.trace", stopped)
    assert build(checkpoint, tmp_path / "tiny") == 130
    assert "stopped; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["export.build_engine", "export.evaluate"])
def test_help_imports_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module} as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'onnx', 'numpy', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert "usage:" in done.stdout
