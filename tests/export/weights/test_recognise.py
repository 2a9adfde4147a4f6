"""Which family a file is of, and the sentence for a file that is something else: one small file for each."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import torch

from export.weights.errors import UnrecognisedWeightsError
from export.weights.files import read
from export.weights.recognise import recognise
from export.weights.settings import Family

TORCHVISION = (
    "backbone.body.conv1.weight",
    "backbone.body.layer1.0.conv1.weight",
    "backbone.fpn.inner_blocks.0.0.weight",
    "rpn.head.conv.0.0.weight",
    "roi_heads.box_head.fc6.weight",
    "roi_heads.box_predictor.cls_score.weight",
)
TORCHVISION_MASKS = (
    "roi_heads.mask_head.0.0.weight",
    "roi_heads.mask_predictor.conv5_mask.weight",
    "roi_heads.mask_predictor.mask_fcn_logits.weight",
)
DETECTRON2 = (
    "backbone.fpn_lateral2.weight",
    "backbone.bottom_up.stem.conv1.weight",
    "backbone.bottom_up.res2.0.conv1.weight",
    "proposal_generator.rpn_head.conv.weight",
    "roi_heads.box_head.fc1.weight",
    "roi_heads.box_predictor.cls_score.weight",
)
DETECTRON2_MASKS = ("roi_heads.mask_head.mask_fcn1.weight", "roi_heads.mask_head.predictor.weight")
MATTERPORT = (
    "conv1/conv1/kernel:0",
    "res2a_branch2a/res2a_branch2a/kernel:0",
    "fpn_c5p5/fpn_c5p5/kernel:0",
    "rpn_model/rpn_class_raw/kernel:0",
    "mrcnn_class_logits/mrcnn_class_logits/kernel:0",
)
MATTERPORT_MASKS = ("mrcnn_mask_conv1/mrcnn_mask_conv1/kernel:0", "mrcnn_mask/mrcnn_mask/kernel:0")


def saved(value: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def checkpoint(names: Iterable[str], **beside: Any) -> bytes:
    return saved({"model": {name: torch.zeros(1) for name in names}, **beside})


def zoo(names: Iterable[str], wrapper: str = "model") -> bytes:
    return pickle.dumps({wrapper: {name: np.zeros(1, np.float32) for name in names}}, 2)


def keras(names: Iterable[str]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name in names:
            file[name] = np.zeros(1, np.float32)
    return buffer.getvalue()


def archive(*names: str, data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, data)
    return buffer.getvalue()


def asking(*names: str) -> bytes:
    """A pickle that makes objects of these classes."""
    objects = [b"c%s\n%s\n)\x81" % tuple(name.encode().rsplit(b".", 1)) for name in names]
    return b"\x80\x02(" + b"".join(objects) + b"l."


def torch_asking(*names: str) -> bytes:
    return archive("archive/data.pkl", data=asking(*names))


def legacy_asking(*names: str) -> bytes:
    whole = saved(0, _use_new_zipfile_serialization=False)
    value, names_of_storages = pickle.dumps(0, 2), pickle.dumps([], 2)
    assert whole.endswith(value + names_of_storages)
    return whole.removesuffix(value + names_of_storages) + asking(*names) + names_of_storages


def onnx_model() -> bytes:
    graph = onnx.helper.make_graph([], "empty", [], [])
    return bytes(onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString())


def safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


def said_of(path: Path, family: Family | None = None) -> str:
    """What is said of the file, after its path, as two sentences at most."""
    with pytest.raises(UnrecognisedWeightsError) as raised:
        recognise(read(path), family)
    message = str(raised.value)
    assert message.startswith(f"{path} ")
    assert message.endswith(".")
    return message.removeprefix(f"{path} ")


FAMILIES: dict[Family, bytes] = {
    "native": checkpoint(("backbone.stem.conv.weight",), maskline_checkpoint=1),
    "torchvision": checkpoint(TORCHVISION + TORCHVISION_MASKS),
    "detectron2": zoo(DETECTRON2 + DETECTRON2_MASKS),
    "matterport": keras(MATTERPORT + MATTERPORT_MASKS),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("said", [True, False])
def test_a_family(tmp_path: Path, family: Family, said: bool) -> None:
    (tmp_path / "weights").write_bytes(FAMILIES[family])
    assert recognise(read(tmp_path / "weights"), family if said else None) == family


def test_a_family_is_told_by_names_whatever_the_container(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(checkpoint(DETECTRON2 + DETECTRON2_MASKS))
    assert recognise(read(tmp_path / "weights")) == "detectron2"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_another_family_than_said(tmp_path: Path, family: Family) -> None:
    (tmp_path / "weights").write_bytes(FAMILIES[family])
    for other in set(FAMILIES) - {family}:
        expected = f"is of the family {family}, not {other}. Leave --family out, or say --family {family}."
        assert said_of(tmp_path / "weights", other) == expected


YOLO = ("model.0.conv.weight", "model.0.bn.weight", "model.1.conv.weight")

OTHER_MODELS: dict[str, tuple[bytes, str]] = {
    "ResNet classifier": (checkpoint(("conv1.weight", "layer1.0.conv1.weight", "fc.weight")), "classification"),
    "ResNet body": (checkpoint(("layer1.0.conv1.weight", "layer4.0.conv1.weight")), "ResNet of an ImageNet class"),
    "VGG": (checkpoint(("features.0.weight", "classifier.0.weight")), "an image classification checkpoint"),
    "ViT": (checkpoint(("cls_token", "blocks.0.attn.qkv.weight", "head.weight")), "an image classification"),
    "Inception": (checkpoint(("Mixed_5b.branch1x1.conv.weight", "fc.weight")), "an image classification"),
    "Faster R-CNN of torchvision": (checkpoint(TORCHVISION), "is a Faster R-CNN: it finds boxes and has no mask head"),
    "Faster R-CNN of detectron2": (zoo(DETECTRON2), "is a Faster R-CNN: it finds boxes and has no mask head"),
    "Keypoint R-CNN": (checkpoint((*TORCHVISION, "roi_heads.keypoint_head.0.weight")), "Keypoint R-CNN"),
    "Keypoint and masks": (
        zoo((*DETECTRON2, *DETECTRON2_MASKS, "roi_heads.keypoint_head.conv_fcn1.weight")),
        "Keypoint R-CNN",
    ),
    "RetinaNet of torchvision": (checkpoint(("head.classification_head.cls_logits.weight",)), "RetinaNet"),
    "RetinaNet of detectron2": (zoo(("head.cls_subnet.0.weight", "head.bbox_pred.weight")), "RetinaNet"),
    "FCOS": (
        checkpoint(("head.classification_head.cls_logits.weight", "head.regression_head.bbox_ctrness.weight")),
        "FCOS",
    ),
    "SSD": (checkpoint(("head.classification_head.module_list.0.weight",)), "SSD"),
    "C4": (zoo(("backbone.res2.0.conv1.weight", "roi_heads.res5.0.conv1.weight", *DETECTRON2_MASKS)), "C4 backbone"),
    "DC5": (zoo(("backbone.res5.0.conv1.weight", "roi_heads.box_head.fc1.weight", *DETECTRON2_MASKS)), "DC5 backbone"),
    "Cascade": (
        zoo((*DETECTRON2[:-2], "roi_heads.box_predictor.0.cls_score.weight", *DETECTRON2_MASKS)),
        "Cascade R-CNN",
    ),
    "Panoptic FPN": (zoo((*DETECTRON2, *DETECTRON2_MASKS, "sem_seg_head.predictor.weight")), "Panoptic FPN"),
    "PointRend": (zoo((*DETECTRON2, "roi_heads.mask_head.point_head.fc1.weight")), "PointRend"),
    "DETR": (checkpoint(("transformer.encoder.layers.0.norm1.weight", "query_embed.weight")), "DETR"),
    "Mask2Former": (zoo(("sem_seg_head.pixel_decoder.mask_features.weight",)), "Mask2Former"),
    "mmdetection": (checkpoint(("rpn_head.rpn_conv.weight", "roi_head.bbox_head.fc_cls.weight")), "mmdetection"),
    "maskrcnn-benchmark": (
        checkpoint(("roi_heads.mask.predictor.mask_fcn_logits.weight",)),
        "maskrcnn-benchmark",
    ),
    "YOLO": (checkpoint(YOLO), "YOLO"),
    "YOLO twice wrapped": (checkpoint(f"model.{name}" for name in YOLO), "YOLO"),
    "DeepLab": (checkpoint(("backbone.layer1.0.conv1.weight", "classifier.4.weight")), "semantic segmentation"),
    "ResNet of Keras": (keras(MATTERPORT[:2]), "ImageNet ResNet of Keras that Matterport starts from"),
    "classifier of Keras": (keras(("predictions/predictions/kernel:0",)), "classification file of Keras"),
    "Keras 3": (keras(("layers/conv2d/vars/0", "layers/conv2d/vars/1")), "Keras 3"),
    "backbone of Caffe2": (zoo(("conv1_w", "res2_0_branch2a_w")), "backbone of Caffe2"),
    "backbone of Detectron": (zoo(("conv1_w", "res2_0_branch2a_w"), "blobs"), "backbone of Caffe2"),
    "backbone of detectron2": (zoo(("stem.conv1.weight", "res2.0.conv1.weight")), "backbone that detectron2 starts"),
    "Matterport without masks": (keras(MATTERPORT), "Matterport file without the mask head"),
    "torchvision cut short": (
        checkpoint(TORCHVISION + TORCHVISION_MASKS[:-1]),
        "looks like a model of torchvision, but has no roi_heads.mask_predictor.mask_fcn_logits.weight",
    ),
    "detectron2 cut short": (zoo(DETECTRON2[:-1]), "looks like a model of detectron2"),
    "something else": (checkpoint(("encoder.gru.weight",)), "not known here, such as encoder.gru.weight"),
    "no tensors": (pickle.dumps({"epoch": 3, "loss": 0.5}), "has no tensors by name; at its top it has epoch, loss"),
    "nothing": (pickle.dumps({}), "has no tensors by name."),
    "a list": (pickle.dumps([1]), "holds a single list"),
    "a tensor": (saved(torch.zeros(1)), "holds a single tensor"),
}

OTHER_FILES: dict[str, tuple[bytes, str]] = {
    "YOLO of ultralytics": (
        torch_asking("ultralytics.nn.tasks.DetectionModel", "torch.nn.modules.conv.Conv2d"),
        "is a pickled YOLO model (ultralytics.nn.tasks.DetectionModel and 1 more), whose code was not run",
    ),
    "YOLOv5": (legacy_asking("models.yolo.Model"), "is a pickled YOLO model (models.yolo.Model)"),
    "whole model": (
        torch_asking("torchvision.models.detection.mask_rcnn.MaskRCNN"),
        "holds a whole model as pickled objects (torchvision.models.detection.mask_rcnn.MaskRCNN)",
    ),
    "whole model, legacy": (legacy_asking("torch.nn.modules.linear.Linear"), "torch.save(model.state_dict(), FILE)"),
    "mmdetection's objects": (torch_asking("mmengine.logging.history_buffer.HistoryBuffer"), "mmdetection"),
    "plain pickle of tensors": (asking("torch.storage._load_from_bytes"), "is a plain pickle of torch tensors"),
    "code": (torch_asking("collections.OrderedDict", "subprocess.Popen"), "would run code: it calls subprocess.Popen"),
    "code behind a model": (
        torch_asking("torch.nn.modules.conv.Conv2d", "builtins.eval"),
        "would run code: it calls builtins.eval and 1 more",
    ),
    "somebody's class": (torch_asking("train.Config"), "it asks for train.Config. Nothing of it was run"),
    "another protocol": (saved({"a": torch.zeros(1)}, pickle_protocol=4), "has a pickle_protocol that"),
    "torch.export": (archive("m/archive_format", "m/models/model.json"), "program of torch.export"),
    "TorchScript": (archive("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), "TorchScript"),
    "Keras archive": (archive("metadata.json", "config.json", "model.weights.h5"), "Keras archive"),
    "NumPy archive": (archive("a.npy"), "NumPy arrays"),
    "other archive": (archive("weights/model.pth"), "zip archive with weights/model.pth. Unpack it"),
    "empty archive": (archive(), "empty archive"),
    "tar.gz": (b"\x1f\x8b\x08\x00rest", "packed archive"),
    "ONNX": (onnx_model(), "ONNX"),
    "safetensors": (safetensors(), "safetensors"),
    "SavedModel": (b"\x08\x01\x12\xf0\x01\x0a\x05", "TensorFlow SavedModel"),
    "Darknet": (struct.pack("<3iq", 0, 2, 5, 32013312) + bytes(range(256)), "YOLO"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "Git LFS pointer"),
    "web page": (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
    "TensorFlow's list": (b'model_checkpoint_path: "m.ckpt-1"\n', "is a TensorFlow checkpoint"),
    "text": (b"hello, I am a text file\n", "is a text file that begins with 'hello, I am a text file'"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(4096), "its download did not finish"),
    "noise": (b"\x01\x02\x03\x04" * 200, "is of no kind that is known here"),
    "picture": (b"\x89PNG\r\n\x1a\n", "is a picture"),
    "zip cut off": (checkpoint(TORCHVISION)[:900], "is cut off or damaged. Download or copy it again."),
    "pickle cut off": (zoo(DETECTRON2)[:500], "is cut off or damaged. Download or copy it again."),
    "HDF5 cut off": (keras(MATTERPORT)[:3000], "is cut off or damaged. Download or copy it again."),
}


@pytest.mark.parametrize("what", OTHER_MODELS | OTHER_FILES)
@pytest.mark.parametrize("family", [None, "torchvision"])
def test_another_file(tmp_path: Path, what: str, family: Family | None) -> None:
    content, told = (OTHER_MODELS | OTHER_FILES)[what]
    (tmp_path / "weights.pth").write_bytes(content)
    assert told in said_of(tmp_path / "weights.pth", family)


def test_a_configuration_in_the_place_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("MODEL:\n  MASK_ON: true\n")
    assert "give this file as --config" in said_of(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        pytest.param(("model.json", "model.onnx"), "is a bundle that was built already", id="bundle"),
        pytest.param(("saved_model.pb", "variables"), "TensorFlow SavedModel", id="SavedModel"),
        pytest.param(("checkpoint", "m.ckpt-1.index"), "TensorFlow checkpoint", id="TensorFlow checkpoint"),
        pytest.param(("log.txt", "last.pth"), "Name the weights file in it, such as last.pth.", id="weights in it"),
        pytest.param((), "is a folder. Name the weights file in it.", id="empty"),
    ],
)
def test_a_folder(tmp_path: Path, names: tuple[str, ...], told: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert told in said_of(tmp_path)


@pytest.mark.parametrize("name", ["m.ckpt-1", "m.ckpt-1.index", "m.ckpt-1.data-00000-of-00001"])
def test_a_tensorflow_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.ckpt-1.index").write_bytes(b"\0\0\4")
    (tmp_path / "m.ckpt-1.data-00000-of-00001").write_bytes(bytes(600))
    assert "is a TensorFlow checkpoint" in said_of(tmp_path / name)
