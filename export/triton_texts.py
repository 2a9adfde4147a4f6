"""What `maskline export-triton` writes: Triton's configuration of the model, and a page for the person who serves it.

Shape shorthand: N pictures in a batch, H x W canvas, K most detections of a picture, S side of a mask.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from string import Template

from server.contract.card import BundleFile, ModelCard

TENSORRT_OF_TRITON = "11.1.0.106"
TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:26.07-py3"
"""The Triton image with the TensorRT above, which is that of deploy/Dockerfile.gpu."""

FILENAMES = {"tensorrt": "model.plan", "onnxruntime": "model.onnx"}


@dataclass(frozen=True)
class Served:
    """A bundle's file as a model of Triton: its name, its version (a whole number), and which file it is."""

    name: str
    version: str
    card: ModelCard
    file: BundleFile

    @property
    def filename(self) -> str:
        return FILENAMES[self.file.engine]

    @property
    def is_plan(self) -> bool:
        return self.file.engine == "tensorrt"

    @property
    def carries_plugins(self) -> bool:
        """A version-compatible plan does, and TensorRT then refuses a library that is registered already."""
        return self.is_plan and (self.file.tensorrt or "").endswith("+")

    @property
    def needs_library(self) -> bool:
        return self.is_plan and not self.carries_plugins

    @property
    def image_type(self) -> str:
        """Of the input `images`, as Triton's protocol names it."""
        return {"uint8": "UINT8", "float32": "FP32"}[self.card.input.dtype]


def config(served: Served) -> str:
    """The model's `config.pbtxt`.

    Outputs are flat over the batch (N * K rows), so that Triton cannot cut a batch apart again: batches are the
    caller's (`max_batch_size: 0`).
    """
    values = {
        "name": json.dumps(served.name),
        "filename": served.filename,
        "image_type": served.image_type,
        "mask_size": served.card.output.mask_size,
        "engine": _plan_settings(served) if served.is_plan else _ONNX_SETTINGS,
    }
    return _CONFIG.substitute(values)


def readme(served: Served, library: str) -> str:
    """The repository's `README.md`."""
    image, choice = _image(served)
    values = {
        "name": served.name,
        "version": served.version,
        "library": library,
        "file": _file(served),
        "image": image,
        "choice": choice,
        "options": _options(served, library),
        "batches": _batches(served),
        "image_type": served.image_type,
        "max_batch": _max_batch(served),
        "card": json.dumps(f"{served.name}/model.json"),
        "quoted_name": json.dumps(served.name),
        "detections": served.card.output.max_detections,
        "mask_size": served.card.output.mask_size,
    }
    return _README.substitute(values)


def _plan_settings(served: Served) -> str:
    profiles = served.file.profiles or []
    comments = "\n".join(
        f"# Profile {i}: canvas {h}x{w}, batches of 1 to {profile.max_batch}."
        for i, profile in enumerate(profiles)
        for h, w in [profile.canvas]
    )
    numbers = ", ".join(f'"{i}"' for i in range(len(profiles)))
    return _PLAN_SETTINGS.substitute(comments=comments, numbers=numbers)


def _file(served: Served) -> str:
    if not served.is_plan:
        return (
            "The model is an ONNX file, which Triton runs in ONNX Runtime: on a GPU, or without `--gpus all` on a CPU."
        )
    tensorrt, capability = _at_least(served.file.tensorrt), _at_least(served.file.compute_capability)
    kind = f"TensorRT plan ({served.file.precision})"
    return f"The model is a {kind} for TensorRT {tensorrt} and GPUs of compute capability {capability}."


def _at_least(version: str | None) -> str:
    text = version or ""
    return f"{text[:-1]} (or later)" if text.endswith("+") else text


def _image(served: Served) -> tuple[str, str]:
    """The Triton image, and what there is to say of the choice."""
    if not served.is_plan:
        return TRITON_IMAGE, ""
    built = served.file.tensorrt or ""
    if built == TENSORRT_OF_TRITON or (served.carries_plugins and _numbers(built) <= _numbers(TENSORRT_OF_TRITON)):
        return TRITON_IMAGE, f"\nThat image has TensorRT {TENSORRT_OF_TRITON}, which fits the plan.{_trust(served)}"
    return _IMAGE_TO_CHOOSE, (
        f"\nPut in the release of Triton that has TensorRT {_at_least(built)}: NVIDIA's support matrix lists "
        f"them.{_trust(served)}"
    )


def _trust(served: Served) -> str:
    return (
        " The plan carries programs, which Triton runs: serve it only if you trust it."
        if served.carries_plugins
        else ""
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.rstrip("+").split("."))


def _options(served: Served, library: str) -> str:
    if served.carries_plugins:
        return " \\\n    --backend-config=tensorrt,version-compatible=true"
    return f" \\\n    --backend-config=tensorrt,plugins=/models/{library}" if served.is_plan else ""


def _max_batch(served: Served) -> int | None:
    return min((profile.max_batch for profile in served.file.profiles or []), default=None)


def _batches(served: Served) -> str:
    if not served.is_plan:
        return f"any whose sides are multiples of {served.card.input.size_divisor}, any number of pictures"
    return "; ".join(
        f"{h}x{w}, 1 to {profile.max_batch} pictures"
        for profile in served.file.profiles or []
        for h, w in [profile.canvas]
    )


_IMAGE_TO_CHOOSE = "nvcr.io/nvidia/tritonserver:XX.YY-py3"

_CONFIG = Template("""\
name: $name
$engine
default_model_filename: "$filename"

# Batches are the caller's: the outputs are flat over the batch, so that Triton could not cut one apart.
max_batch_size: 0

input [
  { name: "images" data_type: TYPE_$image_type dims: [ -1, -1, -1, 3 ] },
  { name: "windows" data_type: TYPE_FP32 dims: [ -1, 4 ] }
]
output [
  { name: "detections" data_type: TYPE_FP32 dims: [ -1, 7 ] },
  { name: "masks" data_type: TYPE_FP32 dims: [ -1, $mask_size, $mask_size ] }
]
""")

_ONNX_SETTINGS = """\
platform: "onnxruntime_onnx"
backend: "onnxruntime\""""

_PLAN_SETTINGS = Template("""\
platform: "tensorrt_plan"
backend: "tensorrt"

$comments
instance_group [ { kind: KIND_GPU count: 1 profile: [ $numbers ] } ]

# A profile's memory, not the largest profile's, for each of them.
parameters { key: "execution_context_allocation_strategy" value { string_value: "ON_PROFILE_CHANGE" } }

# With max_batch_size 0 Triton captures CUDA graphs for a batch of 0 and looks for those of a batch of 1: it finds none.
optimization { cuda { graphs: false } }
""")

_README = Template('''\
# $name in Triton

A model repository for NVIDIA's Triton Inference Server, written by `maskline export-triton`.
$file

## Start

```sh
docker run --rm --gpus all -p 8000:8000 -p 8001:8001 -v "$$PWD:/models:ro" \\
    $image \\
    tritonserver --model-repository=/models$options
```

in this folder.$choice
`curl -f http://127.0.0.1:8000/v2/models/$name/ready` succeeds once the model can be asked.

## Ask

Inputs: `images` [N, H, W, 3] ($image_type, RGB, pictures resized onto canvases) and `windows` [N, 4] (FP32; x1, y1, x2,
y2 of each picture inside its canvas, pixels). Canvases: $batches.

Outputs: `detections` [rows, 7] (image index, x1, y1, x2, y2 in canvas pixels, score, class; rows with a score of 0 are
padding) and `masks` [rows, $mask_size, $mask_size] (probabilities of that class inside the box). At most $detections
detections a picture. Class k is line k + 1 of `$name/labels.txt`; class 0 is the background.

Maskline does the rest, with Triton as one more engine (it needs `pip install 'tritonclient[http]'`; run it in this
folder):

```python
from pathlib import Path

import tritonclient.http as triton

from server.contract.card import ModelCard
from server.engines.base import Detections
from server.pipeline import Pipeline


class TritonEngine:
    """A model of a Triton server, for Maskline's pipeline."""

    description = "Triton"
    max_batch = $max_batch

    def __init__(self, card, url):
        self.card = card
        self._client = triton.InferenceServerClient(url)

    def infer(self, images, windows):
        inputs = [
            triton.InferInput("images", images.shape, "$image_type"),
            triton.InferInput("windows", windows.shape, "FP32"),
        ]
        for tensor, values in zip(inputs, (images, windows)):
            tensor.set_data_from_numpy(values)
        answer = self._client.infer($quoted_name, inputs)
        return Detections(answer.as_numpy("detections"), answer.as_numpy("masks"))

    def close(self):
        self._client.close()


card = ModelCard.model_validate_json(Path($card).read_bytes())
pipeline = Pipeline(TritonEngine(card, "127.0.0.1:8000"))
for found in pipeline.predict(Path("picture.jpg").read_bytes()).detections:
    print(found.class_name, round(found.score, 3), found.box)
```
''')
