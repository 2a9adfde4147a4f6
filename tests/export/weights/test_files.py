"""Reading weights files: each container as plain tensors, nothing run, and an answer to whatever is in a file."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from export.weights.errors import MissingWeightsError, UnrecognisedWeightsError, WeightsError
from export.weights.files import WeightsFile, read
from export.weights.recognise import recognise

Save = Callable[[Any, Path], None]


def save_legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_pickle(value: Any, path: Path, protocol: int = 4) -> None:
    path.write_bytes(pickle.dumps(value, protocol))


def save_hdf5(values: dict[str, Any], path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[name] = value


def refusal(path: Path) -> str:
    with pytest.raises(UnrecognisedWeightsError) as raised:
        read(path)
    return str(raised.value)


def arrays(file: WeightsFile) -> dict[str, Any]:
    return {name: (tensor.dtype, tensor.tolist()) for name, tensor in file.tensors.items()}


TORCH = pytest.mark.parametrize("save", [torch.save, save_legacy])


@TORCH
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
def test_torch_files_are_told_by_their_content(tmp_path: Path, save: Save, name: str) -> None:
    save({"a": torch.arange(3.0)}, tmp_path / name)
    file = read(tmp_path / name)
    assert file.container == "torch"
    assert arrays(file) == {"a": (torch.float32, [0, 1, 2])}


@TORCH
def test_only_floating_point_becomes_float32(tmp_path: Path, save: Save) -> None:
    kinds = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
    save({str(kind): torch.ones(2).to(kind) for kind in kinds}, tmp_path / "a.pt")
    dtypes = [tensor.dtype for tensor in read(tmp_path / "a.pt").tensors.values()]
    assert dtypes == [torch.float32] * 4 + [torch.int64, torch.bool]


@TORCH
def test_what_a_trainer_saves_beside_the_model(tmp_path: Path, save: Save) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=np.float64(0.1), momentum=0.9)
    content = {
        "model": OrderedDict(weight=torch.nn.Parameter(torch.ones(1, 2))),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"milestones": Counter([3]), "base_lrs": [np.float64(0.5)], "last": np.int64(7)},
        "args": argparse.Namespace(lr=0.1, data="coco"),
        "iteration": 9,
    }
    save(content, tmp_path / "model_final.pth")
    file = read(tmp_path / "model_final.pth")
    assert arrays(file) == {"weight": (torch.float32, [[1, 1]])}
    assert not file.tensors["weight"].requires_grad
    assert file.content["iteration"] == 9
    assert file.content["scheduler"]["base_lrs"] == [0.5]
    assert file.content["scheduler"]["last"] == 7


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda names: names, id="bare"),
        pytest.param(lambda names: {"model": names}, id="model"),
        pytest.param(lambda names: {"state_dict": names, "epoch": 3}, id="state_dict"),
        pytest.param(lambda names: {"model_state_dict": names}, id="model_state_dict"),
        pytest.param(lambda names: {"model": {"state_dict": names}}, id="nested"),
    ],
)
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model."]
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, wrap: Callable[[Any], Any], prefix: str) -> None:
    torch.save(wrap({f"{prefix}a.weight": torch.ones(1), f"{prefix}b.module.bias": torch.ones(1)}), tmp_path / "a.pt")
    assert list(read(tmp_path / "a.pt").tensors) == ["a.weight", "b.module.bias"]


def test_a_prefix_that_not_all_names_have_stays(tmp_path: Path) -> None:
    torch.save({"model.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    assert list(read(tmp_path / "a.pt").tensors) == ["model.a", "b"]


ARRAYS = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "half": np.array([0.5, -2], np.float16),
    "double": np.array([[0.25]], np.float64),
    "big-endian": np.array([1, 2], ">f4"),
    "whole": np.array([-1, 2**40]),
    "single": np.array(3, np.float32),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays(tmp_path: Path, protocol: int) -> None:
    save_pickle({"model": ARRAYS, "__author__": "Zoo", "step": np.int32(4)}, tmp_path / "m.pkl", protocol)
    file = read(tmp_path / "m.pkl")
    assert file.container == "pickle"
    assert {name: tensor.tolist() for name, tensor in file.tensors.items()} == {
        k: v.tolist() for k, v in ARRAYS.items()
    }
    assert {file.tensors[name].dtype for name in ARRAYS if ARRAYS[name].dtype.kind == "f"} == {torch.float32}
    assert file.tensors["whole"].dtype == torch.int64
    assert (file.content["__author__"], file.content["step"]) == ("Zoo", 4)


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    text = (
        b"\x80\x02}U\x01w"  # {"w": _reconstruct(ndarray, (0,), "b") with a state of (1, (2,), dtype("f4", 0, 1), ...
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + struct.pack("<2f", 1.5, -3e38) + b"tbs."
    )
    (tmp_path / "m.pkl").write_bytes(text)
    expected = np.array([1.5, -3e38], np.float32).tolist()
    assert arrays(read(tmp_path / "m.pkl")) == {"w": (torch.float32, expected)}


@pytest.mark.parametrize("array", [np.array([None]), np.array(["a"]), np.zeros(2, "f4,f4"), np.zeros(2, "c8")])
def test_arrays_of_other_things_than_numbers_are_refused(tmp_path: Path, array: Any) -> None:
    save_pickle({"model": {"a": array}}, tmp_path / "m.pkl")
    assert "not of numbers" in refusal(tmp_path / "m.pkl")


def test_float32_is_not_copied(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(5)}}, tmp_path / "a.pt")
    file = read(tmp_path / "a.pt")
    assert file.tensors["a"].data_ptr() == file.content["model"]["a"].data_ptr()


KERAS = {
    "conv1/conv1/kernel:0": np.arange(3, dtype=np.float32),
    "conv1/conv1/bias:0": np.ones(1, np.float16),
    "bn_conv1/bn_conv1/gamma:0": np.ones(1, ">f8"),
    "rpn_model/rpn_conv_shared/bias:0": np.array([2.0], np.float32),
    "rpn_model/rpn_class_raw_1/kernel:0": np.array([3.0], np.float32),
    "mrcnn_mask_bn1/other_name/beta:0": np.array([4.0], np.float32),
}
LAYERS = {
    "conv1/kernel": [0, 1, 2],
    "conv1/bias": [1],
    "bn_conv1/gamma": [1],
    "rpn_conv_shared/bias": [2],
    "rpn_class_raw/kernel": [3],
    "mrcnn_mask_bn1/beta": [4],
}


@pytest.mark.parametrize("group", ["", "model_weights/"])
def test_hdf5(tmp_path: Path, group: str) -> None:
    with h5py.File(tmp_path / "w", "w") as file:
        for name, value in KERAS.items():
            file[group + name] = value
        file.create_group(f"{group}input_image")
        if group:
            file["optimizer_weights/conv1/kernel:0"] = np.ones(3)
    read_back = read(tmp_path / "w")
    assert read_back.container == "hdf5"
    assert arrays(read_back) == {name: (torch.float32, value) for name, value in LAYERS.items()}


def link_elsewhere(file: h5py.File, other: Path) -> None:
    file["conv1/kernel:0"] = h5py.ExternalLink(str(other), "secret")


def link_all_elsewhere(file: h5py.File, other: Path) -> None:
    file["model_weights"] = h5py.ExternalLink(str(other), "/")


def link_within(file: h5py.File, other: Path) -> None:
    file["conv1/kernel:0"] = h5py.SoftLink("/secret")


def store_elsewhere(file: h5py.File, other: Path) -> None:
    file.create_dataset("conv1/kernel:0", (4,), "f4", external=[(str(other), 0, 16)])


def show_elsewhere(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(other), "secret", (4,))
    file.create_virtual_dataset("conv1/kernel:0", layout)


@pytest.mark.parametrize("make", [link_elsewhere, link_all_elsewhere, link_within, store_elsewhere, show_elsewhere])
def test_hdf5_gives_no_data_of_other_files(tmp_path: Path, make: Callable[[h5py.File, Path], None]) -> None:
    save_hdf5({"secret": np.ones(4, np.float32)}, tmp_path / "other.h5")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        make(file, tmp_path / "other.h5")
    assert "Save it again as one file" in refusal(tmp_path / "w.h5")


def test_hdf5_groups_in_a_circle(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["conv1/kernel:0"] = np.ones(1, np.float32)
        file["conv1/again"] = file["conv1"]
        file["conv1/top"] = file["/"]
    assert list(read(tmp_path / "w.h5").tensors) == ["conv1/kernel"]


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"There is no weights file .*absent\.pt\."):
        read(tmp_path / "absent.pt")


class MakeFolder:
    """Unpickles by running code: makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class FromState:
    """Unpickles as an empty array whose state is made by running code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments, state = np.zeros(1).__reduce__()
        return function, arguments, (state[0], MakeFolder(self.path), *state[2:])


@pytest.mark.parametrize(
    "save",
    [
        pytest.param(torch.save, id="torch"),
        pytest.param(save_legacy, id="legacy torch"),
        *(pytest.param(lambda v, p, n=n: save_pickle(v, p, n), id=f"protocol {n}") for n in range(6)),
    ],
)
@pytest.mark.parametrize(
    "hide",
    [
        pytest.param(MakeFolder, id="value"),
        pytest.param(FromState, id="state of an array"),
        pytest.param(lambda path: np.array([MakeFolder(path)]), id="array of objects"),
    ],
)
def test_code_in_a_file_is_not_run(tmp_path: Path, save: Save, hide: Callable[[Path], Any]) -> None:
    save({"model": {"a": hide(tmp_path / "ran")}}, tmp_path / "evil.pth")
    message = refusal(tmp_path / "evil.pth")
    assert f"would run code: it calls {os.mkdir.__module__}.mkdir" in message
    assert "Nothing of it was run" in message
    assert not (tmp_path / "ran").exists()


def zip_of(data: bytes, **records: bytes) -> bytes:
    """A torch file of this pickle and these storages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"data.pkl": data, "version": b"3\n", **records}.items():
            archive.writestr(f"archive/{name.replace('__', '/')}", content)
    return buffer.getvalue()


def huge_hdf5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("conv1/kernel:0", (2**44,), "f4", chunks=(2**20,))
    return buffer.getvalue()


def expanded_tensor() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1, dtype=torch.float16).expand(2**40)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(b"\x80\x02}r\xfe\xff\xff\x7f.", "is cut off or damaged", id="memo"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".", "is cut off or damaged", id="bytes"),
        pytest.param(b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b".", "is cut off or damaged", id="text"),
        pytest.param(b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b".", "is cut off or damaged", id="frame"),
        pytest.param(b"\x80\x02" + 20_000 * b"]" + 19_999 * b"a" + b".", "holds a single list", id="deep"),
        pytest.param(b"\x80\x02" + 600_000 * b"N0" + b"N.", "far more values", id="many operations"),
        pytest.param(
            pickle.dumps({"a": np.zeros(3, "f4")}, 2).replace(b"K\x03\x85", b"\x8a\x06\0\0\0\0\0\1\x85"),
            "is cut off or damaged",
            id="array",
        ),
        pytest.param(zip_of(b"\x80\x02}.", data__0=bytes(10**7)), "claims to hold 10,000,00", id="archive"),
        pytest.param(expanded_tensor(), "claims to hold 2,199,023,255,552 bytes", id="tensor"),
        pytest.param(huge_hdf5(), "claims to hold 70,368,744,177,664 bytes", id="hdf5"),
    ],
)
def test_a_file_that_claims_more_than_it_holds(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "bomb").write_bytes(content)
    assert told in refusal(tmp_path / "bomb")


SMALL: dict[str, Callable[[Path], None]] = {
    "torch": lambda path: torch.save({"model": {"a.weight": torch.ones(40)}, "epoch": 3}, path),
    "legacy": lambda path: save_legacy({"model": {"a.weight": torch.ones(40)}, "epoch": 3}, path),
    "pickle": lambda path: save_pickle({"model": ARRAYS, "epoch": np.int64(3)}, path, 2),
    "pickle 5": lambda path: save_pickle({"model": ARRAYS, "epoch": np.int64(3)}, path, 5),
    "hdf5": lambda path: save_hdf5(KERAS, path),
}


@pytest.mark.parametrize("kind", SMALL)
def test_damaged_files_end_in_an_answer(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    SMALL[kind](path)
    whole, random_ = path.read_bytes(), random.Random(7)
    for number in range(200):
        place = random_.randrange(1, len(whole))
        changed = whole[:place] + bytes([random_.randrange(256)]) + whole[place + 1 :]
        path.write_bytes(changed if number % 2 else whole[:place])
        try:
            recognise(read(path))
        except WeightsError:
            continue


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off_is_said_to_be(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "weights"
    SMALL[kind](path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert refusal(path) == f"{path} is cut off or damaged. Download or copy it again."
