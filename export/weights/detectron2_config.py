"""detectron2's config.yaml: as detectron2 reads it, what of it is supported, and values with rules of their own."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from export.model.config import LEVEL_COUNT
from export.weights.errors import WeightsConfigError
from export.weights.settings import Setting, Settings, read_config_file

_NORMS: Final = ("BN", "SyncBN", "FrozenBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
"""BatchNorm at inference, all of them."""

_SUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {
    "VERSION": (2,),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.MASK_ON": (True,),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.LOAD_PROPOSALS": (False,),
    "MODEL.BACKBONE.NAME": ("build_resnet_fpn_backbone",),
    "MODEL.RESNETS.NORM": _NORMS,
    "MODEL.RESNETS.NUM_GROUPS": (1,),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ((False,) * 4,),
    "MODEL.FPN.IN_FEATURES": (("res2", "res3", "res4", "res5"),),
    "MODEL.FPN.NORM": ("", *_NORMS),
    "MODEL.FPN.FUSE_TYPE": ("sum",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.RPN.IN_FEATURES": (("p2", "p3", "p4", "p5", "p6"),),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads",),
    "MODEL.ROI_HEADS.IN_FEATURES": (("p2", "p3", "p4", "p5"),),
    "MODEL.ROI_BOX_HEAD.NAME": ("FastRCNNConvFCHead",),
    "MODEL.ROI_BOX_HEAD.NORM": ("", *_NORMS),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.ROI_MASK_HEAD.NORM": ("", *_NORMS),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": (False,),
}
"""What a configuration may say of what cannot be chosen here."""

_WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "": "_BASE_ CUDNN_BENCHMARK DATALOADER DATASETS FLOAT32_PRECISION GLOBAL OUTPUT_DIR SEED SOLVER VIS_PERIOD",
    "INPUT.": "CROP MASK_FORMAT MAX_SIZE_TRAIN MIN_SIZE_TRAIN MIN_SIZE_TRAIN_SAMPLING RANDOM_FLIP",
    "MODEL.": "DEVICE PANOPTIC_FPN RETINANET ROI_BOX_CASCADE_HEAD ROI_KEYPOINT_HEAD SEM_SEG_HEAD WEIGHTS",
    "MODEL.ANCHOR_GENERATOR.": "ANGLES",
    "MODEL.BACKBONE.": "FREEZE_AT",
    "MODEL.RESNETS.": "DEFORM_MODULATED DEFORM_NUM_GROUPS OUT_FEATURES RES2_OUT_CHANNELS STEM_OUT_CHANNELS "
    "WIDTH_PER_GROUP",
    "MODEL.RPN.": "BATCH_SIZE_PER_IMAGE BBOX_REG_LOSS_TYPE BBOX_REG_LOSS_WEIGHT BOUNDARY_THRESH CONV_DIMS IOU_LABELS "
    "IOU_THRESHOLDS LOSS_WEIGHT POSITIVE_FRACTION POST_NMS_TOPK_TRAIN PRE_NMS_TOPK_TRAIN SMOOTH_L1_BETA",
    "MODEL.ROI_HEADS.": "BATCH_SIZE_PER_IMAGE IOU_LABELS IOU_THRESHOLDS POSITIVE_FRACTION PROPOSAL_APPEND_GT",
    "MODEL.ROI_BOX_HEAD.": "BBOX_REG_LOSS_TYPE BBOX_REG_LOSS_WEIGHT CONV_DIM FC_DIM FED_LOSS_FREQ_WEIGHT_POWER "
    "FED_LOSS_NUM_CLASSES SMOOTH_L1_BETA TRAIN_ON_PRED_BOXES USE_FED_LOSS",
    "MODEL.ROI_MASK_HEAD.": "CONV_DIM",
    "TEST.": "AUG EVAL_PERIOD EXPECTED_RESULTS KEYPOINT_OKS_SIGMAS PRECISE_BN",
}
"""Of training, of other models or plain from the weights. Nothing is fetched from WEIGHTS, nothing runs on DEVICE."""


def prepare(settings: Settings) -> None:
    """Completes `settings.values`. Raises `WeightsConfigError` for what is not supported."""
    settings.values = _as_detectron2_reads(settings)
    settings.ignore(*(f"{part}{name}" for part, names in _WITHOUT_EFFECT.items() for name in names.split()))
    for name, supported in _SUPPORTED.items():
        settings.expect(name, *supported)


def limit(settings: Settings, name: str, default: int, *, flag: str) -> int:
    """detectron2 takes zero as no resize, and less as no limit."""
    value = settings.take(name, default, flag=flag)
    if value < 1:
        raise WeightsConfigError(f"{name} is {value}; a bundle needs one above zero: --{flag.replace('_', '-')}.")
    return value


def of_both_heads(settings: Settings, name: str, default: Any) -> Any:
    box = settings.take(f"MODEL.ROI_BOX_HEAD.{name}", default)
    if settings.take(f"MODEL.ROI_MASK_HEAD.{name}", default) != box:
        raise WeightsConfigError(f"MODEL.ROI_BOX_HEAD and MODEL.ROI_MASK_HEAD must have the same {name}.")
    return box


def numbers(settings: Settings, name: str, default: tuple[float, ...], *, positive: bool = False) -> tuple[Any, ...]:
    """As many numbers as the default has."""
    values = settings.take(name, default)
    fit = all(isinstance(v, int | float) and (v > 0 or not positive) for v in values)
    if len(values) != len(default) or not fit:
        kind = "positive numbers" if positive else "numbers"
        raise WeightsConfigError(f"{name} is {values!r}; it needs {len(default)} {kind}.")
    return values


def box_std(settings: Settings, name: str, default: tuple[float, ...]) -> tuple[float, float, float, float]:
    x, y, w, h = numbers(settings, name, default, positive=True)
    return 1 / x, 1 / y, 1 / w, 1 / h


def levels(settings: Settings, name: str, default: tuple[Any, ...]) -> tuple[tuple[float, ...], ...]:
    """Numbers for each of the five levels; one list is for all of them."""
    values = settings.take(name, default)
    levels = values if all(isinstance(level, tuple) for level in values) else (values,)
    levels = levels * LEVEL_COUNT if len(levels) == 1 else levels
    fit = all(isinstance(n, int | float) and n > 0 for level in levels for n in level)
    if len(levels) != LEVEL_COUNT or not fit:
        raise WeightsConfigError(
            f"{name} is {values!r}; it needs positive numbers, for all levels or for each of P2 to P6."
        )
    return levels


def _as_detectron2_reads(settings: Settings) -> dict[str, Any]:
    """The configuration with its `_BASE_` under it, as far as these files are there, and its strings evaluated."""
    path, values = settings.given.config or Path(), dict(settings.values)
    followed: set[Path] = set()
    while isinstance(base := values.pop("_BASE_", None), str):
        path = (path.parent / Path(base).expanduser()).resolve()
        origin = path.name if path.is_file() else "not found; Mask R-CNN with FPN has its defaults"
        settings.taken.append(Setting("_BASE_", base, origin))
        if not path.is_file():
            break
        if path in followed:
            raise WeightsConfigError(f"{path} is its own _BASE_.")
        followed.add(path)
        values = _merged(read_config_file(path), values)
    return {name: _evaluated(value) for name, value in values.items()}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _evaluated(value: Any) -> Any:
    """Strings such as "(1, 2)" and "1e-3" as the values that they write."""
    if isinstance(value, Mapping):
        return {name: _evaluated(v) for name, v in value.items()}
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value
