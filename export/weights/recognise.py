"""Whose weights a file holds, or what it is instead.

A family is told by one tensor that only its Mask R-CNN has. The weights of other models are told by the names of their
tensors too; some of them have a family's mask head and more beside it, so these are looked for first.
"""

from __future__ import annotations

import re

from export.weights import detectron2, matterport, native, torchvision
from export.weights.errors import UnrecognisedWeightsError
from export.weights.files import WeightsFile
from export.weights.settings import Family

_SIGNATURES: dict[str, Family] = {
    torchvision.SIGNATURE: "torchvision",
    detectron2.SIGNATURE: "detectron2",
    matterport.SIGNATURE: "matterport",
}

_OWN_NAMES: dict[Family, str] = {
    "torchvision": r"backbone\.(body|fpn)\.|rpn\.head\.|roi_heads\.",
    "detectron2": r"backbone\.(bottom_up|fpn_)|proposal_generator\.|roi_heads\.",
    "matterport": r"(conv1|bn_conv1|(res|bn)\d[a-z]_branch\w+|fpn_\w+|rpn_\w+|mrcnn_\w+)/",
}
"""How the names of a family's tensors begin."""

_CAN = "Only the Mask R-CNN with an FPN of torchvision, detectron2 and Matterport can be imported."

_Kinds = tuple[tuple[str, tuple[str, ...]], ...]
"""What a file is, and regular expressions that must each be found among the names of its tensors, which are one a line;
the first row that fits tells."""

_MORE_THAN_A_FAMILY: _Kinds = (
    ("is a model of mmdetection, whose layers differ", (r"^rpn_head\.rpn_conv|^(roi_head\.)?bbox_head\.",)),
    ("is a Mask2Former or MaskFormer", (r"^sem_seg_head\.(pixel_decoder|predictor\.(transformer|class|query))",)),
    ("is a Panoptic FPN, which has a second head for whole pictures", (r"^sem_seg_head\.", r"^roi_heads\.")),
    ("is a Keypoint R-CNN", (r"^roi_heads\.(keypoint_head|keypoint_predictor)",)),
    ("is a Cascade R-CNN, whose box head has several stages", (r"^roi_heads\.box_predictor\.0\.",)),
    ("is a PointRend model", (r"^roi_heads\.(mask_head\.(point|coarse)_head|mask_(point|coarse)_head)",)),
    ("is a Mask Scoring R-CNN", (r"^roi_heads\.maskiou_head",)),
    ("is an R-CNN of detectron2 with a C4 backbone, without an FPN", (r"^roi_heads\.res5\.",)),
    ("is an R-CNN of detectron2 with a DC5 backbone, without an FPN", (r"^backbone\.res\d\.", r"^roi_heads\.")),
    ("is a model of maskrcnn-benchmark", (r"^roi_heads\.(box|mask)\.(feature_extractor|predictor)",)),
    ("is a PyTorch copy of Matterport's model", (r"^classifier\.linear_class\.", r"^rpn\.conv_shared\.")),
    ("is a model of Detectron for Caffe2", (r"^(mask_fcn_logits|bbox_pred)_w$",)),
)
"""Other models, some of which have a family's mask head and more."""

_NO_MASK_HEAD = r"\A(?s:(?!.*^roi_heads\.mask_))"

_OTHERS: _Kinds = (
    (
        "is a Faster R-CNN: it finds boxes and has no mask head",
        (r"^(rpn\.head|proposal_generator\.rpn_head)\.", r"^roi_heads\.box_predictor\.", _NO_MASK_HEAD),
    ),
    ("is a Matterport file without the mask head: it has no mrcnn_mask layer", (r"^mrcnn_class_logits/",)),
    ("is an SSD, which has no mask head", (r"^head\.classification_head\.module_list",)),
    ("is an FCOS, which has no mask head", (r"^head\.(\w+\.bbox_)?ctrness|fcos",)),
    ("is a RetinaNet, which has no mask head", (r"^head\.(classification_head|cls_subnet)",)),
    ("is a DETR, or another transformer", (r"transformer\.(encoder|decoder)|^query_embed|^class_embed",)),
    ("is a Segment Anything model", (r"^image_encoder\.", r"^mask_decoder\.")),
    ("is a YOLO model", (r"^\d+\.conv\.weight", r"^\d+\.bn\.")),
    ("is a semantic segmentation model", (r"^backbone\.(layer1|features|\d)", r"^classifier\.")),
    ("is a semantic segmentation model", (r"^sem_seg_head\.",)),
    ("is an ImageNet classification checkpoint (a ResNet), without a detector", (r"^layer1\.0\.", r"^fc\.weight")),
    ("is the ResNet of an ImageNet classification checkpoint, without a detector", (r"^layer1\.0\.", r"^layer4\.0\.")),
    ("is a weights file of Keras 3, whose weights have no names", (r"^layers/|/vars/",)),
    ("is the ImageNet ResNet of Keras that Matterport starts from, without a detector", (r"^res2a_branch2a/",)),
    ("is an ImageNet backbone of Caffe2, without a detector", (r"^conv1_w$|^res2_0_branch2a_w$",)),
    ("is an ImageNet backbone that detectron2 starts from, without a detector", (r"^stem\.conv1\.", r"^res2\.0\.")),
    ("is an image classification checkpoint, without a detector", (r"^fc\.weight",)),
    (
        "is an image classification checkpoint, without a detector",
        (r"^(features|blocks|stages|layers|encoder|conv_stem)\.", r"^(classifier|heads?)\."),
    ),
    (
        "is an image classification file of Keras, without a detector",
        (r"^(predictions|fc1000|probs|logits|top_dense|classifier)/",),
    ),
)
"""Models without a family's mask head."""


def recognise(file: WeightsFile, said: Family | None = None) -> Family:
    """The family of the weights in `file`. Raises `UnrecognisedWeightsError` that says what the file is instead, also
    where it is not of the family that the person `said`."""
    names = "\n".join(file.tensors)
    found = _family(file)
    other = None if found == "native" else _kind(names, _MORE_THAN_A_FAMILY)
    if found is None or other:
        raise UnrecognisedWeightsError(f"{file.path} {other or _instead(file, names)}")
    if said and said != found:
        raise UnrecognisedWeightsError(
            f"{file.path} is of the family {found}, not {said}. Leave --family out, or say --family {found}."
        )
    return found


def _family(file: WeightsFile) -> Family | None:
    if native.FORMAT_KEY in file.content:
        return "native"
    return next((family for name, family in _SIGNATURES.items() if name in file.tensors), None)


def _instead(file: WeightsFile, names: str) -> str:
    if not file.tensors:
        keys = ", ".join(map(str, list(file.content)[:5]))
        return f"has no tensors by name{f'; at its top it has {keys}' if keys else ''}. {_CAN}"
    return (
        _kind(names, _OTHERS)
        or _nearly(file)
        or f"has the tensors of a model that is not known here, such as {', '.join(list(file.tensors)[:4])}. {_CAN}"
    )


def _kind(names: str, kinds: _Kinds) -> str | None:
    fitting = (told for told, patterns in kinds if all(re.search(pattern, names, re.M) for pattern in patterns))
    return next((f"{told}. {_CAN}" for told in fitting), None)


def _nearly(file: WeightsFile) -> str | None:
    """For a file with most names of a family, but not the one that tells it."""
    for signature, family in _SIGNATURES.items():
        if 2 * sum(bool(re.match(_OWN_NAMES[family], name)) for name in file.tensors) > len(file.tensors):
            return f"looks like a model of {family}, but has no {signature}: its mask head is missing or was renamed."
    return None
