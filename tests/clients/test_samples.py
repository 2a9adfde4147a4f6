"""The generated sample pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.samples import SCENES, main, render


def test_the_command_writes_pictures_and_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "new" / "samples"
    assert main([str(folder)]) == 0
    named = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert named == [folder / f"{scene.name}.png" for scene in SCENES]
    for path, scene in zip(named, SCENES, strict=True):
        with Image.open(path) as image:
            assert (image.mode, image.height, image.width) == ("RGB", *scene.size_hw)


def test_a_seed_makes_the_same_picture_and_another_seed_another():
    scene = SCENES[1]
    np.testing.assert_array_equal(render(scene, 3), render(scene, 3))
    assert (render(scene, 3) != render(scene, 4)).mean() > 0.2


def test_fluorescence_is_bright_on_dark_and_histology_violet_on_pale():
    fluorescence = render(next(scene for scene in SCENES if scene.stain == "fluorescence")).astype(int)
    assert np.ptp(fluorescence, axis=2).max() == 0  # grey
    assert np.median(fluorescence) < 20
    assert np.percentile(fluorescence, 99) > 60
    histology = render(next(scene for scene in SCENES if scene.stain == "histology")).astype(int)
    assert np.median(histology) > 120
    assert np.all(histology.mean(axis=(0, 1))[[0, 2]] > histology.mean(axis=(0, 1))[1])  # least green


def test_a_folder_that_cannot_be_made_is_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "file" / "samples")])
    assert stopped.value.code == 2
    assert "file" in capsys.readouterr().err
