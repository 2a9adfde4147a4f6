from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.contract.errors import BundleError, EngineUnavailable
from server.repository import find_bundles, load_bundle
from tests.server.running import write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", b"an ONNX file")


def test_good_bundle(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    path, entry = loaded.file_for("onnxruntime")
    assert (path, entry.precision) == (bundle / "model.onnx", "fp32")
    with pytest.raises(EngineUnavailable, match="no file for the engine tensorrt, only for onnxruntime"):
        loaded.file_for("tensorrt")


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(bundle: Path) -> None:
        card = json.loads((bundle / "model.json").read_text())
        change(card)
        (bundle / "model.json").write_text(json.dumps(card))

    return apply


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda b: (b / "model.onnx").write_bytes(b"x"), ("model.onnx", "SHA-256"), id="hash"),
        pytest.param(lambda b: (b / "model.onnx").unlink(), ("model.onnx", "No such file"), id="missing file"),
        pytest.param(lambda b: (b / "model.json").unlink(), ("model.json", "No such file"), id="missing card"),
        pytest.param(lambda b: (b / "model.json").write_text("{"), ("model.json", "JSON"), id="no JSON"),
        pytest.param(lambda b: (b / "model.json").write_bytes(b"\xff"), ("model.json",), id="no text"),
        pytest.param(edit(lambda c: c.pop("classes")), ("classes", "Field required"), id="missing field"),
        pytest.param(edit(lambda c: c.update(extra=1)), ("extra",), id="unknown field"),
        pytest.param(edit(lambda c: c.update(schema_version=99)), ("schema version 1",), id="schema"),
        pytest.param(edit(lambda c: c["files"][0].update(path="../x")), ("outside", "../x"), id="path"),
    ],
)
def test_bad_bundle_says_what_is_wrong_and_how_to_mend_it(
    bundle: Path, spoil: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    spoil(bundle)
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle)
    for word in (*words, str(bundle), "maskline build --weights"):
        assert word in str(caught.value)


def test_bundles_are_found_in_folders(bundle: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "another", b"x")
    assert find_bundles([bundle]) == [bundle]
    assert find_bundles([tmp_path]) == [other, bundle]


def test_folder_without_bundles(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no bundle"):
        find_bundles([tmp_path])
    with pytest.raises(BundleError, match="is not a folder"):
        find_bundles([tmp_path / "nothing"])
