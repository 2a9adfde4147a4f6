"""What a file is that is not weights: by its first bytes, by the names in an archive, by what its pickle asks for.

Each answer is the rest of a sentence that begins with the file's path: what it is, and what to do.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

_ONLY = "Only a Mask R-CNN with an FPN can be imported."
_AGAIN = "Download or copy it again."
_SAVE_WEIGHTS = "Where the model's code runs, save its weights alone: torch.save(model.state_dict(), FILE)."
_KERAS = "With the code that made it, save its weights as HDF5: model.save_weights('weights.h5')."

DAMAGED = f"is cut off or damaged. {_AGAIN}"
TENSORFLOW = f"is a TensorFlow checkpoint. {_KERAS}"


class ForeignError(Exception):
    """The file is something else; the message lacks the path at its beginning."""


_MAGIC: tuple[tuple[bytes, str], ...] = (
    (rb"$", f"is empty. {_AGAIN}"),
    (rb"\0{512}", f"begins with nothing but zeros: its download did not finish. {_AGAIN}"),
    (
        rb"version https://git-lfs",
        "is a Git LFS pointer, not the file itself. Run `git lfs pull` where it was checked out.",
    ),
    (
        rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|\?xml)",
        "is a web page, not weights. Download the file behind the page.",
    ),
    (
        rb"[\s\S]{4}\0{4}\{\s*\"",
        "is a safetensors file. Save its tensors as a checkpoint: "
        "torch.save(safetensors.torch.load_file(FILE), 'weights.pth').",
    ),
    (rb"\x08\x01\x12", f"is a TensorFlow SavedModel, which holds a graph. {_KERAS}"),
    (
        rb"\x08[\x02-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]",
        "is an ONNX model, which holds a graph. Name the weights it was exported from.",
    ),
    (rb"[\s\S]{4}TFL3", "is a TensorFlow Lite model, which holds a graph. Name the weights it was made from."),
    (rb"\0\0\0\0[\1\2]\0\0\0", f"is a file of Darknet, of a YOLO model. {_ONLY}"),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|[\s\S]{257}ustar",
        "is a packed archive. Unpack it, and name the weights inside.",
    ),
    (rb"model_checkpoint_path:", TENSORFLOW),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF", "is a picture, not weights."),
    (rb"\x93NUMPY", "is a NumPy array, not the weights of a model."),
    (rb"PK\x05\x06", "is an empty archive."),
)
"""Regular expressions for the first 512 bytes."""


def by_start(path: Path, start: bytes) -> str | None:
    """What a file is that begins with `start`, its first 512 bytes; None if that does not tell."""
    if re.search(r"\.data-\d+-of-\d+$|ckpt.*\.(index|meta)$", path.name):
        return TENSORFLOW
    answer = next((sentence for magic, sentence in _MAGIC if re.match(magic, start)), None)
    return answer or (None if start.startswith(b"\x80") else _text(path, start))


def _text(path: Path, start: bytes) -> str | None:
    if re.search(rb"[^\t-\r -\xff]", start):
        return None
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        return "is a text file. Name the weights with --weights, and give this file as --config."
    return f"is a text file that begins with {start[:30].decode('latin1').strip()!r}, not weights."


def by_folder(path: Path) -> str:
    """What a folder is."""
    names = sorted(entry.name for entry in path.iterdir())
    if "saved_model.pb" in names or "keras_metadata.pb" in names:
        return f"is a TensorFlow SavedModel, which holds a graph. {_KERAS}"
    if any(name.endswith(".index") for name in names):
        return TENSORFLOW
    if "model.json" in names:
        return "is a bundle that was built already. Name the weights it was built from, or serve it as it is."
    found = [name for name in names if re.search(r"\.(pth?|pkl|h5|hdf5|ckpt)$", name)]
    return f"is a folder. Name the weights file in it{f', such as {found[0]}' if found else ''}."


def by_archive(archive: zipfile.ZipFile) -> str | None:
    """What a zip archive is; None for a checkpoint of torch."""
    names = archive.namelist()
    leaves = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in leaves:
        return (
            "is a TorchScript archive, which holds code. Save its weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')."
        )
    if "archive_format" in leaves:
        return "is a program of torch.export, which holds a graph. Name the weights it was exported from."
    if "data.pkl" in leaves:
        return None
    if "model.weights.h5" in leaves:
        return f"is a Keras archive (.keras), which holds a graph. {_KERAS}"
    if any(name.endswith(".npy") for name in names):
        return "is an archive of NumPy arrays (.npz), which names no family. Save them with the family's own code."
    return f"is a zip archive with {', '.join(names[:3]) or 'nothing in it'}. Unpack it, and name the weights inside."


_ASKED: tuple[tuple[str, str], ...] = (
    (
        r"(os|posix|nt|sys|subprocess|shutil|socket|importlib|runpy|pickle|ctypes|webbrowser|pty|code|torch\.hub)\."
        r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|apply|__import__)",
        "is a pickle that would run code: it calls {}. Nothing of it was run. Do not open it with other tools.",
    ),
    (
        r"ultralytics|models\.(yolo|common|experimental)\.|yolo",
        "is a pickled YOLO model ({}), whose code was not run. " + _ONLY,
    ),
    (
        r"mmdet|mmengine|mmcv",
        "is a checkpoint of mmdetection that holds objects ({}), whose code was not run. Only the Mask R-CNN of "
        "torchvision, detectron2 and Matterport can be imported.",
    ),
    (
        r"torch\.storage\._load_from_bytes",
        "is a plain pickle of torch tensors, which is read by running code ({}); it was not run. " + _SAVE_WEIGHTS,
    ),
    (
        r"torchvision|detectron2|timm|transformers|segmentation_models|torch\.(nn|fx|_dynamo|ao)",
        "holds a whole model as pickled objects ({}), whose code was not run. " + _SAVE_WEIGHTS,
    ),
    (
        r"",
        "is a pickle that would run code: beside values and arrays it asks for {}. Nothing of it was run. "
        + _SAVE_WEIGHTS,
    ),
)
"""What gives a pickle away among the functions and classes that it asks for, the worst first."""


def by_asked(names: Sequence[str]) -> str:
    """What a pickle is that asks for functions and classes, at least one, that are not given to it."""
    for pattern, sentence in _ASKED:
        found = [name for name in names if re.match(pattern, name)]
        if found:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return sentence.format(found[0] + more)
    raise AssertionError("the last pattern fits every name")
