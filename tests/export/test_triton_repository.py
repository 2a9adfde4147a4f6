"""`maskline export-triton`: Triton's own text format reads the configuration, and the README's program answers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from PIL import Image

from clients.samples import write_samples
from export.triton_repository import main
from server.pipeline import Pipeline

DEMO = Path(__file__).parents[2] / "models" / "demo"
LIBRARY = "libmaskline_plugins_registered.so"

Field = descriptor_pb2.FieldDescriptorProto
STRING, INT32, INT64, BOOL = Field.TYPE_STRING, Field.TYPE_INT32, Field.TYPE_INT64, Field.TYPE_BOOL

# What of Triton's model_config.proto a configuration may name: field -> (number, repeated, scalar type or message).
SCHEMA: dict[str, dict[str, tuple[int, bool, int | str]]] = {
    "Tensor": {"name": (1, False, STRING), "data_type": (2, False, "DataType"), "dims": (3, True, INT64)},
    "Group": {
        "count": (2, False, INT32),
        "gpus": (3, True, INT32),
        "kind": (4, False, "Kind"),
        "profile": (5, True, STRING),
    },
    "Parameter": {"string_value": (1, False, STRING)},
    "ParametersEntry": {"key": (1, False, STRING), "value": (2, False, "Parameter")},
    "Cuda": {"graphs": (1, False, BOOL)},
    "Optimization": {"cuda": (3, False, "Cuda")},
    "ModelConfig": {
        "name": (1, False, STRING),
        "platform": (2, False, STRING),
        "backend": (17, False, STRING),
        "max_batch_size": (4, False, INT32),
        "input": (5, True, "Tensor"),
        "output": (6, True, "Tensor"),
        "instance_group": (7, True, "Group"),
        "default_model_filename": (8, False, STRING),
        "optimization": (12, False, "Optimization"),
        "parameters": (14, True, "ParametersEntry"),
    },
}
ENUMS = {"DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP32": 11}, "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1}}


def model_config_class() -> type[Any]:
    file = descriptor_pb2.FileDescriptorProto(name="triton_subset.proto", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, repeated, kind) in fields.items():
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, int):
                added.type = kind
            else:
                added.type = Field.TYPE_ENUM if kind in ENUMS else Field.TYPE_MESSAGE
                added.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made: type[Any] = message_factory.GetMessageClass(pool.FindMessageTypeByName("ModelConfig"))
    return made


def config_of(model: Path) -> Any:
    """The configuration, read strictly: an unknown field, type or value is an error."""
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_class()())


def make_bundle(folder: Path, *, tensorrt: str | None, **changes: Any) -> Path:
    """A bundle whose files are not what they are called; with a plan where `tensorrt` is a version."""
    card = json.loads((DEMO / "model.json").read_text()) | changes
    card["files"] = [entry("model.onnx", engine="onnxruntime", precision="fp32")]
    if tensorrt is not None:
        profiles = [{"canvas": [800, 1088], "max_batch": 8}, {"canvas": [1088, 800], "max_batch": 4}]
        plan = {"tensorrt": tensorrt, "compute_capability": "9.0", "profiles": profiles}
        card["files"].append(entry("model.plan", engine="tensorrt", precision="fp16", **plan))
    folder.mkdir()
    for file in card["files"]:
        (folder / file["path"]).write_text(file["path"])
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def entry(path: str, **rest: Any) -> dict[str, Any]:
    return {"path": path, "sha256": hashlib.sha256(path.encode()).hexdigest(), **rest}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    built = tmp_path / "build"
    built.mkdir()
    (built / "libmaskline_plugins.so").touch()
    (built / LIBRARY).write_text("registered")
    monkeypatch.setenv("MASKLINE_PLUGIN_LIBRARY", str(built / "libmaskline_plugins.so"))
    return built / LIBRARY


@pytest.fixture
def no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_PLUGIN_LIBRARY", str(tmp_path / "nowhere.so"))


@pytest.mark.usefixtures("library")
def test_a_plan_becomes_a_model_with_a_profile_a_canvas(tmp_path: Path) -> None:
    output = tmp_path / "triton"
    assert main([str(make_bundle(tmp_path / "b", tensorrt="11.1.0.106")), "--output", str(output)]) == 0
    inside = {f"demo/{name}" for name in ("1/model.plan", "config.pbtxt", "labels.txt", "model.json")}
    assert files_in(output) == inside | {"README.md", LIBRARY}
    assert [path.name for path in output.iterdir() if path.is_dir()] == ["demo"]  # Triton loads every folder
    assert (output / "demo/1/model.plan").read_text() == "model.plan"
    assert (output / "demo/labels.txt").read_text() == "background\nnucleus\n"

    config = config_of(output / "demo")
    assert (config.name, config.platform, config.backend) == ("demo", "tensorrt_plan", "tensorrt")
    assert (config.max_batch_size, config.default_model_filename) == (0, "model.plan")
    assert [list(group.profile) for group in config.instance_group] == [["0", "1"]]
    shapes = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in (*config.input, *config.output)}
    assert shapes == {
        "images": (2, [-1, -1, -1, 3]),
        "windows": (11, [-1, 4]),
        "detections": (11, [-1, 7]),
        "masks": (11, [-1, 28, 28]),
    }


@pytest.mark.usefixtures("library")
def test_without_a_plan_the_onnx_file_is_served(tmp_path: Path) -> None:
    output = tmp_path / "triton"
    bundle = make_bundle(tmp_path / "b", tensorrt=None)
    assert main([str(bundle), "--output", str(output), "--name", "nuclei.v2"]) == 0
    config = config_of(output / "nuclei.v2")
    assert (config.name, config.platform, config.backend) == ("nuclei.v2", "onnxruntime_onnx", "onnxruntime")
    assert config.default_model_filename == "model.onnx"
    assert not config.instance_group
    assert LIBRARY not in files_in(output) | set((output / "README.md").read_text().split())


@pytest.mark.usefixtures("library")
def test_the_onnx_file_can_be_asked_for_where_there_is_a_plan(tmp_path: Path) -> None:
    output = tmp_path / "triton"
    bundle = make_bundle(tmp_path / "b", tensorrt="11.1.0.106")
    assert main([str(bundle), "--output", str(output), "--engine", "onnxruntime"]) == 0
    assert config_of(output / "demo").backend == "onnxruntime"


@pytest.mark.parametrize(("version", "folder"), [("7", "7"), ("2026-01", "1"), ("0", "1")])
@pytest.mark.usefixtures("library")
def test_a_version_that_triton_cannot_have_becomes_1(tmp_path: Path, version: str, folder: str) -> None:
    output = tmp_path / "triton"
    bundle = make_bundle(tmp_path / "b", tensorrt=None, version=version)
    assert main([str(bundle), "--output", str(output)]) == 0
    assert (output / "demo" / folder / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("tensorrt", "image", "option"),
    [
        ("11.1.0.106", "tritonserver:26.07-py3", f"tensorrt,plugins=/models/{LIBRARY}"),
        ("10.9.0.34", "tritonserver:XX.YY-py3", f"tensorrt,plugins=/models/{LIBRARY}"),
        ("10.9.0.34+", "tritonserver:26.07-py3", "tensorrt,version-compatible=true"),
        ("12.0.0.1+", "tritonserver:XX.YY-py3", "tensorrt,version-compatible=true"),
    ],
)
@pytest.mark.usefixtures("library")
def test_the_readme_starts_a_triton_that_fits_the_plan(tmp_path: Path, tensorrt: str, image: str, option: str) -> None:
    output = tmp_path / "triton"
    assert main([str(make_bundle(tmp_path / "b", tensorrt=tensorrt)), "--output", str(output)]) == 0
    text = (output / "README.md").read_text()
    assert image in text
    assert re.findall(r"--backend-config=(\S+)", text) == [option]
    assert (LIBRARY in files_in(output)) == (LIBRARY in option)


@pytest.mark.usefixtures("no_library")
def test_a_missing_plugin_library_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "triton"
    assert main([str(make_bundle(tmp_path / "b", tensorrt="11.1.0.106")), "--output", str(output)]) == 0
    assert "make plugins" in capsys.readouterr().err
    assert LIBRARY not in files_in(output)


@pytest.mark.usefixtures("no_library")
def test_what_cannot_be_exported_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, output = make_bundle(tmp_path / "b", tensorrt=None), tmp_path / "triton"
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ([str(empty), "--output", str(output)], "model.json cannot be read"),
        ([str(bundle), "--output", str(output), "--engine", "tensorrt"], "has no TensorRT plan"),
        ([str(bundle), "--output", str(bundle)], "not an empty folder"),
        ([str(bundle), "--output", str(bundle / "model.json")], "not an empty folder"),
        ([str(bundle), "--output", str(bundle / "model.json" / "x")], "cannot be written"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert main([str(bundle), "--output", str(empty)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"b", "empty"}  # nothing half done stays


@pytest.mark.parametrize("arguments", [["b"], ["b", "--output", "o", "--name", "a/b"]])
def test_bad_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: maskline export-triton" in capsys.readouterr().err


class InferInput:
    """As tritonclient's: checks the type and the shape that the program gave."""

    def __init__(self, name: str, shape: tuple[int, ...], datatype: str) -> None:
        self.name, self._shape, self._datatype = name, shape, datatype

    def set_data_from_numpy(self, values: np.ndarray[Any, Any]) -> None:
        assert values.shape == tuple(self._shape)
        assert values.dtype == {"UINT8": np.uint8, "FP32": np.float32}[self._datatype]
        self.values = values


class Answer:
    def __init__(self, outputs: dict[str, Any]) -> None:
        self.as_numpy = outputs.__getitem__


class Server:
    """A Triton that runs the repository's ONNX file."""

    def __init__(self, url: str) -> None:
        assert url == "127.0.0.1:8000"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession("demo/1/model.onnx", options)

    def infer(self, model: str, inputs: list[InferInput]) -> Answer:
        names = [tensor.name for tensor in config_of(Path(model)).output]
        outputs = self._session.run(names, {tensor.name: tensor.values for tensor in inputs})
        return Answer(dict(zip(names, outputs, strict=True)))


@pytest.fixture
def tritonclient(monkeypatch: pytest.MonkeyPatch) -> None:
    package, http = types.ModuleType("tritonclient"), types.ModuleType("tritonclient.http")
    vars(http).update(InferInput=InferInput, InferenceServerClient=Server)
    vars(package).update(http=http)
    monkeypatch.setitem(sys.modules, "tritonclient", package)
    monkeypatch.setitem(sys.modules, "tritonclient.http", http)


@pytest.mark.usefixtures("tritonclient")
def test_the_program_of_the_readme_answers_as_the_bundle_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "triton"
    assert main([str(DEMO), "--output", str(repository)]) == 0
    picture = repository / "picture.jpg"
    shutil.copy(write_samples(tmp_path / "samples")[0], tmp_path / "sample.png")
    with Image.open(tmp_path / "sample.png") as sample:
        sample.convert("RGB").resize((192, 160)).save(picture)
    program = re.search(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    assert program is not None
    monkeypatch.chdir(repository)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program[1], "README.md", "exec"), {})
    pipeline = Pipeline.open(DEMO, "onnxruntime", threads=1)
    expected = pipeline.predict(picture.read_bytes()).detections
    pipeline.engine.close()
    assert len(expected) > 3
    assert printed.getvalue().splitlines() == [f"{d.class_name} {round(d.score, 3)} {d.box}" for d in expected]
