"""The structures of the kernels' plain C functions (nms/c_api.cpp, roi_align/c_api.cpp), for ctypes."""

from __future__ import annotations

import ctypes

MAX_LEVELS = 8
LEVEL_RULES = ("floor", "round")


class NmsSettings(ctypes.Structure):
    """See nms/kernel.h."""

    _fields_ = (
        ("iou_threshold", ctypes.c_float),
        ("score_threshold", ctypes.c_float),
        ("max_output", ctypes.c_int32),
        ("pre_nms_topk", ctypes.c_int32),
    )


class Pyramid(ctypes.Structure):
    """See roi_align/kernel.h."""

    _fields_ = (
        ("features", ctypes.c_void_p * MAX_LEVELS),
        ("heights", ctypes.c_int32 * MAX_LEVELS),
        ("widths", ctypes.c_int32 * MAX_LEVELS),
        ("level_count", ctypes.c_int32),
        ("images", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("layout", ctypes.c_int32),
    )


class RoiAlignSettings(ctypes.Structure):
    """See roi_align/kernel.h."""

    _fields_ = (
        ("output_size", ctypes.c_int32),
        ("sampling_ratio", ctypes.c_int32),
        ("aligned", ctypes.c_bool),
        ("crop_and_resize", ctypes.c_bool),
        ("level_rule", ctypes.c_int32),
    )
