"""The graph in int8: QuantizeLinear and DequantizeLinear about its convolutions and matrix products.

Weights are int8, a scale a channel, without zero points; activations are uint8, a scale and a zero point a tensor:
both runtimes have their fast kernels for that. ReLU, max pool, the sums of shortcuts and of the pyramid stand between
quantised layers and go with them. Preprocessing, anchors, boxes, scores, NMS, RoIs and RoIAlign stay in float32, and
so do the predictors: their outputs are the answers.

ONNX Runtime's own quantiser does it; what is here says which layers, and with which ranges.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import PercentileCalibrater, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

Feed = Mapping[str, NDArray[Any]]
"""The inputs of one run: `images` [N, H, W, 3] and `windows` [N, 4]."""

PERCENTILE = 99.99
"""Part of a tensor's values, in percent, that its range holds; chosen by measurement (docs/int8.md)."""

BINS = 2048
"""Of the histograms that the ranges are taken from."""

PARTS = {
    "stem": ("backbone.stem.",),
    "stage 2": ("backbone.stage2.",),
    "stage 3": ("backbone.stage3.",),
    "stage 4": ("backbone.stage4.",),
    "stage 5": ("backbone.stage5.",),
    "pyramid": ("fpn.",),
    "RPN": ("rpn_head.convs.",),
    "box head": ("box_head.convs.", "box_head.fcs."),
    "mask head": ("mask_head.convs.", "mask_head.deconv."),
}
"""Layers that are quantised together, or not, by how the names of their weights begin. The rest are predictors."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FOLLOWING = ("Relu", "MaxPool", "Resize", "Add")


def quantised(proto: onnx.ModelProto, ranges: TensorsData, parts: Collection[str]) -> onnx.ModelProto:
    """`proto`, a graph without functions (`export.graph.inlined`), with `parts` of it in int8.

    `ranges` are what `calibrated` gives for the same graph.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    nodes = [node.name for node in _layers(whole.graph, parts)]
    with _quiet():
        quantiser = QDQQuantizer(
            whole,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=[*_WEIGHTED, *_FOLLOWING],
            extra_options={},
        )
        made: onnx.ModelProto = quantiser.quantize_model()
    made.producer_name, made.producer_version = proto.producer_name, proto.producer_version
    return made


def calibrated(proto: onnx.ModelProto, feeds: Iterable[Feed]) -> TensorsData:
    """The range of every tensor that may be quantised, as the graph answers `feeds`.

    One feed's tensors are in memory at a time, and become histograms.
    """
    layers = list(_layers(proto.graph, PARTS))
    # ReLU becomes the lower end of its layer's range: what comes before it needs no histogram of its own.
    before_relu = {node.input[0]: node.output[0] for node in layers if node.op_type == "Relu"}
    weights = {value.name for value in proto.graph.initializer}
    tensors = {name for node in layers for name in (*node.input[: _operands(node)], node.output[0])}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        onnx.save(proto, path)
        calibrater = _Calibrater(path, tensors - weights - before_relu.keys(), Path(folder) / "augmented.onnx")
        for feed in feeds:
            calibrater.collect_data(_Once(feed))
        ranges = calibrater.compute_data()
    ranges.data.update({before: ranges.data[after] for before, after in before_relu.items()})
    return ranges


class _Calibrater(PercentileCalibrater):  # type: ignore[misc]
    """Looks at the tensors that it is told to, not at all of some operators' tensors."""

    def __init__(self, path: Path, tensors: Collection[str], augmented: Path) -> None:
        super().__init__(path, augmented_model_path=str(augmented), num_bins=BINS, percentile=PERCENTILE)
        self._chosen = set(tensors)
        self.augment_graph()
        self.create_inference_session()

    def select_tensors_to_calibrate(self, model: onnx.ModelProto) -> tuple[set[str], dict[str, Any]]:
        _, infos = super().select_tensors_to_calibrate(model)
        return self._chosen, infos


class _Once:
    """A feed as the calibrater reads it."""

    def __init__(self, feed: Feed) -> None:
        self._feeds = [dict(feed)]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return self._feeds.pop() if self._feeds else None


def _layers(graph: onnx.GraphProto, parts: Collection[str]) -> Iterator[onnx.NodeProto]:
    """The layers of `parts`, and what only such layers feed."""
    prefixes = tuple(prefix for part in parts for prefix in PARTS[part])
    made: set[str] = set()
    for node in graph.node:
        if node.op_type in _WEIGHTED:
            chosen = node.input[1].startswith(prefixes)
        else:
            chosen = node.op_type in _FOLLOWING and made.issuperset(node.input[: _operands(node)])
        if chosen:
            made.add(node.output[0])
            yield node


def _operands(node: onnx.NodeProto) -> int:
    """How many of a node's first inputs are activations."""
    return 2 if node.op_type == "Add" else 1


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints, and warns at the root logger of what need not be mended."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
