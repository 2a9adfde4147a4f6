"""Make sample pictures to post: synthetic cell nuclei as a microscope shows them. No photograph is copied.

    maskline samples samples/

Fluorescence: bright textured nuclei on a dark, uneven, noisy background, some touching. Histology: violet nuclei in
pale stained tissue. The same seed makes the same pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Plane = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """One picture. Lengths in pixels; `crowding` is the part of nuclei that grow beside an earlier one.

    `stretch` is how much longer than wide a nucleus may be, `brightness` (fluorescence only) the level of a typical
    nucleus of 255.
    """

    name: str
    stain: str
    size_hw: tuple[int, int]
    count: int
    radius: float
    stretch: float
    crowding: float
    brightness: float = 90.0


SCENES = (
    Scene("fluorescence-1", "fluorescence", (520, 696), 60, 14.0, 1.6, 0.25, 85.0),
    Scene("fluorescence-2", "fluorescence", (256, 256), 34, 8.5, 1.5, 0.45, 110.0),
    Scene("fluorescence-3", "fluorescence", (360, 360), 15, 26.0, 1.9, 0.35, 60.0),
    Scene("histology-1", "histology", (512, 640), 70, 14.0, 1.5, 0.2),
    Scene("histology-2", "histology", (256, 320), 26, 11.0, 2.8, 0.1),
)


@dataclass(frozen=True)
class Nucleus:
    """Lies in `window` (rows, columns) of the picture, [h, w] of that.

    `edge` [h, w] is 1 inside, 0 outside, soft between; `position` [h, w] runs from 0 at the centre to 1 at the rim.
    """

    centre_yx: tuple[float, float]
    window: tuple[slice, slice]
    edge: Plane
    position: Plane


def main(argv: Sequence[str] | None = None) -> int:
    """Write a PNG for each scene; 2 when the folder cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to put them; made when missing")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other pictures (default 0)")
    arguments = parser.parse_args(argv)
    try:
        for path in write_samples(arguments.folder, arguments.seed):
            print(path)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    return 0


def write_samples(folder: Path, seed: int = 0) -> list[Path]:
    """The PNG files written, one for each of `SCENES`."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{scene.name}.png" for scene in SCENES]
    for scene, path in zip(SCENES, paths, strict=True):
        Image.fromarray(render(scene, seed)).save(path)
    return paths


def render(scene: Scene, seed: int = 0) -> npt.NDArray[np.uint8]:
    """RGB [h, w, 3] of one scene."""
    import numpy as np

    rng = np.random.default_rng([seed, *scene.name.encode()])
    nuclei = _nuclei(scene, rng)
    picture = _fluorescence(scene, nuclei, rng) if scene.stain == "fluorescence" else _histology(scene, nuclei, rng)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _nuclei(scene: Scene, rng: np.random.Generator) -> list[Nucleus]:
    """Placed so that they touch at most: a place taken by an earlier one is drawn anew."""
    import numpy as np

    taken = np.zeros(scene.size_hw, bool)
    nuclei: list[Nucleus] = []
    for _ in range(scene.count):
        for _ in range(20):
            nucleus = _nucleus(scene, nuclei, rng)
            core, ground = nucleus.edge > 0.5, taken[nucleus.window]
            if core.any() and (ground & core).sum() < 0.04 * core.sum():
                ground |= core
                nuclei.append(nucleus)
                break
    return nuclei


def _nucleus(scene: Scene, placed: Sequence[Nucleus], rng: np.random.Generator) -> Nucleus:
    """An ellipse with a wavy rim, somewhere, or beside one of `placed`."""
    import numpy as np

    h, w = scene.size_hw
    radius = scene.radius * rng.lognormal(0.0, 0.18)
    y, x = rng.uniform(0, h), rng.uniform(0, w)
    if placed and rng.random() < scene.crowding:
        angle, (near_y, near_x) = rng.uniform(0, 2 * np.pi), placed[int(rng.integers(len(placed)))].centre_yx
        y, x = near_y + 2.05 * radius * np.sin(angle), near_x + 2.05 * radius * np.cos(angle)
    window = _window(y, x, 4 * radius, scene.size_hw)
    rows, columns = np.mgrid[window]
    dy, dx = rows + 0.5 - y, columns + 0.5 - x
    turn, stretch = rng.uniform(0, np.pi), np.sqrt(rng.uniform(1.0, scene.stretch))
    along = (dx * np.cos(turn) + dy * np.sin(turn)) / (radius * stretch)
    across = (dy * np.cos(turn) - dx * np.sin(turn)) * stretch / radius
    angle = np.arctan2(across, along)
    rim = 1.0 + sum(rng.normal(0, 0.05 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5))
    position = np.hypot(along, across) / rim
    steepness = 1.8 * radius / stretch
    edge = 1 / (1 + np.exp(np.clip((position - 1) * steepness, -50, 50)))
    return Nucleus((y, x), window, edge, position)


def _window(y: float, x: float, reach: float, size_hw: tuple[int, int]) -> tuple[slice, slice]:
    h, w = size_hw
    rows = slice(max(0, int(y - reach)), max(0, min(h, int(y + reach) + 1)))
    return rows, slice(max(0, int(x - reach)), max(0, min(w, int(x + reach) + 1)))


def _fluorescence(scene: Scene, nuclei: Sequence[Nucleus], rng: np.random.Generator) -> Plane:
    import numpy as np

    light = 9.0 + 4.0 * _smooth_noise(scene.size_hw, 250.0, rng)
    for nucleus in nuclei:
        chromatin = 1.0 + 0.16 * _smooth_noise(nucleus.edge.shape, scene.radius / 3.2, rng)
        profile = 1.0 - 0.22 * np.clip(nucleus.position, 0, 1.5) ** 2
        level = scene.brightness * rng.lognormal(0.0, 0.28)
        halo = 0.05 * np.exp(-np.clip(nucleus.position - 1, 0, 8) * 1.6)
        light[nucleus.window] += level * (nucleus.edge * chromatin * profile + halo)
    noisy = rng.poisson(np.clip(light, 0, None) * 6) / 6 + rng.normal(0, 0.8, scene.size_hw)
    return np.repeat(noisy[:, :, None], 3, axis=2)


def _histology(scene: Scene, nuclei: Sequence[Nucleus], rng: np.random.Generator) -> Plane:
    """Beer-Lambert: each stain takes its part of the light, so that what overlaps gets darker."""
    import numpy as np

    fibres = _smooth_noise(scene.size_hw, 9.0, rng) + 0.6 * _smooth_noise(scene.size_hw, 3.0, rng)
    eosin = np.clip(0.36 + 0.05 * fibres + 0.08 * _smooth_noise(scene.size_hw, 90.0, rng), 0, None)
    haematoxylin = np.zeros(scene.size_hw)
    for nucleus in nuclei:
        chromatin = 1.0 + 0.3 * _smooth_noise(nucleus.edge.shape, scene.radius / 4.5, rng)
        rim = 0.35 * np.exp(-(((nucleus.position - 0.92) / 0.12) ** 2))
        haematoxylin[nucleus.window] += (
            rng.uniform(0.75, 1.5) * nucleus.edge * np.clip(0.8 * chromatin + rim, 0.2, None)
        )
    absorbed = eosin[:, :, None] * (0.62, 0.95, 0.25) + haematoxylin[:, :, None] * (0.78, 1.05, 0.28)
    return np.asarray(246.0 * np.exp(-absorbed) + rng.normal(0, 2.0, (*scene.size_hw, 1)))


def _smooth_noise(size_hw: tuple[int, ...], grain: float, rng: np.random.Generator) -> Plane:
    """[h, w] of mean about 0 and deviation about 1, with details of about `grain` pixels."""
    import numpy as np
    from PIL import Image

    h, w = size_hw
    coarse = rng.normal(0, 1, (int(h / grain) + 3, int(w / grain) + 3)).astype(np.float32)
    fine = Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)
    return np.asarray(fine, np.float64)


if __name__ == "__main__":
    sys.exit(main())
