"""A `MaskRCNN` as an ONNX model: custom nodes for TensorRT's plugins, functions of the same name for the rest.

The batch and the canvas are free; the numbers of detections and masks are the true ones of each batch.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnx.defs import OpSchema
from onnxscript import values

from export.graph.functions import DOMAIN, DOMAIN_VERSION, OPSET, function_protos
from export.model.config import ModelConfig
from export.model.mask_rcnn import MaskRCNN
from export.model.rpn import nms_limits_itself

MAX_BATCH = 64
MAX_CANVAS = 16384
"""Largest batch and canvas side, px, that the traced program promises to take; ONNX itself sets no limit."""

TENSORRT_TOPK = 3840
"""Largest k of TensorRT's TopK."""

INPUT_NAMES = ("images", "windows")
OUTPUT_NAMES = ("detections", "masks")


def trace(model: MaskRCNN) -> onnx.ModelProto:
    """`model` as a checked ONNX model of opset 20 (IR 10), in inference mode.

    Inputs `images` [N, H, W, 3] (`InputConfig.dtype`; H and W multiples of the size divisor) and `windows` [N, 4];
    outputs `detections` [M, 7] and `masks` [M, S, S], as `MaskRCNN.forward` gives them.
    """
    with _quiet(), torch.no_grad():
        exported = torch.onnx.export(
            _program(model.eval()),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table={
                torch.ops.maskrcnn.nms.default: _nms_node,
                torch.ops.maskrcnn.pyramid_roi_align.default: _roi_align_node,
            },
            input_names=list(INPUT_NAMES),
            output_names=list(OUTPUT_NAMES),
            verbose=False,
        )
    assert exported is not None  # the dynamo exporter returns a program unless it is given a file
    return _completed(exported.model_proto, model)


def tensorrt_obstacle(config: ModelConfig) -> str | None:
    """Why TensorRT cannot build the graph of a model with this configuration; None where it can.

    Other runtimes have no such limit.
    """
    rule = config.rpn
    if nms_limits_itself(rule) or rule.pre_nms_topk <= TENSORRT_TOPK:
        return None
    where = "of each level" if rule.selection == "per_level" else "of all levels"
    return (
        f"The model takes the best {rule.pre_nms_topk} anchors {where} before NMS, and TensorRT's TopK ends at "
        f"{TENSORRT_TOPK}: build it with --engine onnx, or set a lower limit in its configuration."
    )


def _program(model: MaskRCNN) -> torch.export.ExportedProgram:
    rules = model.config.input
    divisor = rules.size_divisor
    most = MAX_CANVAS // divisor
    # Two pictures on a canvas whose sides differ: a size of 1 or equal sides would be taken for constants.
    images = torch.zeros((2, 2 * divisor, 3 * divisor, 3), dtype=getattr(torch, rules.dtype))
    windows = torch.tensor([[0.0, 0.0, 3.0 * divisor, 2.0 * divisor]] * 2)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    rows = divisor * torch.export.Dim("rows", min=1, max=most)
    columns = divisor * torch.export.Dim("columns", min=1, max=most)
    shapes = ({0: batch, 1: rows, 2: columns}, {0: batch})
    return torch.export.export(model, (images, windows), dynamic_shapes=shapes, strict=False)


def _completed(proto: onnx.ModelProto, model: MaskRCNN) -> onnx.ModelProto:
    """The exporter's model with the functions, a description and names that do not depend on this machine."""
    proto.functions.extend(function_protos())
    if all(opset.domain != DOMAIN for opset in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    proto.producer_name, proto.producer_version = "maskline", ""
    classes = ", ".join(model.config.classes[1:])
    proto.doc_string = f"Mask R-CNN ({model.config.family}, ResNet-{model.config.backbone.depth}-FPN) for: {classes}."
    _strip(proto)
    _name_dimensions(proto.graph.input[0], "batch", "height", "width")
    _name_dimensions(proto.graph.input[1], "batch")
    for output in proto.graph.output:
        _name_dimensions(output, "rows")
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _strip(proto: onnx.ModelProto) -> None:
    """Takes out the exporter's notes: stack traces with paths of this machine, and shapes in names of its own."""
    graph = proto.graph
    for noted in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
    del graph.value_info[:]
    graph.name = "mask_rcnn"


def _name_dimensions(value: onnx.ValueInfoProto, *names: str) -> None:
    for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
        dimension.dim_param = name


def _operator(name: str, inputs: dict[str, str], output: str, attributes: dict[str, OpSchema.AttrType]) -> values.Op:
    """The exporter builds nodes only from a schema; this one is of an operator that no library defines."""
    attributes = attributes | {"plugin_version": OpSchema.AttrType.STRING, "plugin_namespace": OpSchema.AttrType.STRING}
    schema = OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[OpSchema.FormalParameter(k, v) for k, v in inputs.items()],
        outputs=[OpSchema.FormalParameter("out", output)],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[OpSchema.Attribute(k, v) for k, v in attributes.items()],
    )
    return values.Op(values.Opset(DOMAIN, DOMAIN_VERSION), name, schema)


_PLUGIN = {"plugin_version": "1", "plugin_namespace": DOMAIN}
"""TensorRT takes its plugin, and not the function, only where the node itself names the namespace."""

_NMS = _operator(
    "MaskRcnnNms",
    {"boxes": "T", "scores": "T", "groups": "tensor(int64)"},
    "tensor(int64)",
    {
        "iou_threshold": OpSchema.AttrType.FLOAT,
        "score_threshold": OpSchema.AttrType.FLOAT,
        "max_output": OpSchema.AttrType.INT,
        "pre_nms_topk": OpSchema.AttrType.INT,
    },
)

_ROI_ALIGN = _operator(
    "PyramidRoiAlign",
    {"p2": "T", "p3": "T", "p4": "T", "p5": "T", "boxes": "tensor(float)", "image_index": "tensor(int64)"},
    "T",
    {
        "output_size": OpSchema.AttrType.INT,
        "sampling_ratio": OpSchema.AttrType.INT,
        "aligned": OpSchema.AttrType.INT,
        "crop_and_resize": OpSchema.AttrType.INT,
        "level_rule": OpSchema.AttrType.STRING,
    },
)


def _nms_node(
    boxes: Any,
    scores: Any,
    groups: Any,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
    pre_nms_topk: int = 0,
) -> Any:
    return _NMS(
        boxes,
        scores,
        groups,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_output=max_output,
        pre_nms_topk=pre_nms_topk,
        **_PLUGIN,
    )


def _roi_align_node(
    p2: Any,
    p3: Any,
    p4: Any,
    p5: Any,
    boxes: Any,
    image_index: Any,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    crop_and_resize: bool,
    level_rule: str,
) -> Any:
    return _ROI_ALIGN(
        p2,
        p3,
        p4,
        p5,
        boxes,
        image_index,
        output_size=output_size,
        # crop_and_resize takes one sample a bin; said on the node, the function need not tell the cases apart.
        sampling_ratio=1 if crop_and_resize else sampling_ratio,
        aligned=int(aligned),
        crop_and_resize=int(crop_and_resize),
        level_rule=level_rule,
        **_PLUGIN,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's own remarks, on deprecations inside torch and on skipped optimisations, off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
