"""Batches of training views, in an order that depends on the seed and the step alone.

Position p of the endless sequence of pictures is a place in a permutation that (seed, epoch) gives, and its view and
target samples are drawn from generators seeded by (seed, p). So there is no random state to keep: a resumed run, or
one spread over several processes, sees the pictures that an uninterrupted single process sees. An epoch holds every
picture once, whatever the batch and the number of processes: where it ends within a step, the rest of the step is the
beginning of the next; nothing is padded, repeated or left out.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from export.model.config import InputConfig
from export.serving import serving_input
from export.training.augment import View, training_view
from export.training.config import TrainingConfig
from export.training.dataset import PictureSet
from export.training.targets import ImageObjects
from server.preprocess import Canvas, canvas_size, place


@dataclass(frozen=True)
class Batch:
    """N views on canvases of one size, H x W."""

    images: Tensor
    """[N, H, W, 3], of the input rule's dtype"""
    windows: Tensor
    """[N, 4] x1, y1, x2, y2 of each view in its canvas"""
    objects: list[ImageObjects]
    active: Tensor
    """[N, C] bool: classes that each picture's annotators looked for"""
    positions: list[int]
    names: list[str]

    def to(self, device: torch.device) -> Batch:
        objects = [ImageObjects(*(t.to(device, non_blocking=True) for t in o)) for o in self.objects]
        images, windows, active = (t.to(device, non_blocking=True) for t in (self.images, self.windows, self.active))
        return Batch(images, windows, objects, active, self.positions, self.names)


@dataclass(frozen=True)
class _Example:
    view: View
    active: Tensor
    position: int
    name: str


class TrainingViews(Dataset[_Example]):
    """The endless sequence of views; `self[p]` is the one at position p."""

    def __init__(self, pictures: PictureSet, rule: InputConfig, config: TrainingConfig) -> None:
        self.pictures, self.rule, self.config = pictures, rule, config
        self._epoch = -1
        self._order = np.zeros(0, dtype=np.int64)

    def __getitem__(self, position: int) -> _Example:
        index = self.picture_index(position)
        picture = self.pictures[index]
        rng = np.random.default_rng((self.config.seed, 1, position))
        view = training_view(picture, self.rule, self.config.augment, rng)
        return _Example(view, torch.from_numpy(self.pictures.active(index)), position, picture.name)

    def picture_index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.pictures))
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.config.seed, 0, epoch)).permutation(len(self.pictures))
            self._epoch = epoch
        return int(self._order[place])


def batch_positions(config: TrainingConfig, first_step: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """Positions of this process's share of each part of each step, from `first_step` to the end.

    Shares follow each other, and differ by one where a part cannot be shared evenly.
    """
    part_size = config.batch_size // config.accumulate
    first, end = part_size * rank // world_size, part_size * (rank + 1) // world_size
    for part in range(first_step * config.accumulate, config.steps * config.accumulate):
        yield list(range(part * part_size + first, part * part_size + end))


def load_batches(
    views: TrainingViews, config: TrainingConfig, first_step: int, rank: int, world_size: int
) -> Generator[Batch]:
    """This process's batches, one a part of a step. Close it, or its worker processes outlive it."""
    positions = list(batch_positions(config, first_step, rank, world_size))
    loader: DataLoader[_Example] = DataLoader(
        views,
        batch_sampler=positions,
        collate_fn=_Collate(views.rule, config),
        num_workers=config.workers,
        worker_init_fn=_quiet_worker,
        pin_memory=torch.cuda.is_available(),
    )
    yield from loader


def target_generator(seed: int, position: int) -> torch.Generator:
    """The generator for sampling anchors and RoIs of the view at this position."""
    state = np.random.SeedSequence((seed, 2, position)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class _Collate:
    """Makes a `Batch`; a class, so that worker processes can be sent it."""

    def __init__(self, rule: InputConfig, config: TrainingConfig) -> None:
        # A crop is smaller than the square that whole pictures need; its canvas need not be larger.
        self.rule = rule if config.augment.crop is None else replace(rule, square=None)
        self.mini_mask_size = config.targets.mini_mask_size

    def __call__(self, examples: list[_Example]) -> Batch:
        canvases = self._place([e.view for e in examples])
        return Batch(
            images=torch.stack([torch.from_numpy(c.image) for c in canvases]),
            windows=torch.tensor([c.window_xyxy for c in canvases], dtype=torch.float32),
            objects=[self._objects(e.view, c) for e, c in zip(examples, canvases, strict=True)],
            active=torch.stack([e.active for e in examples]),
            positions=[e.position for e in examples],
            names=[e.name for e in examples],
        )

    def _place(self, views: list[View]) -> list[Canvas]:
        """Each view where the service would put it, on canvases that hold the highest and the widest."""
        sizes = [view.image.shape[:2] for view in views]
        largest = max(h for h, _ in sizes), max(w for _, w in sizes)
        shared = serving_input(self.rule, [canvas_size(largest, serving_input(self.rule))])
        return [place(view.image, size, shared) for view, size in zip(views, sizes, strict=True)]

    def _objects(self, view: View, canvas: Canvas) -> ImageObjects:
        window = torch.tensor(canvas.window_xyxy, dtype=torch.float32)
        shift = window[:2].repeat(2)
        boxes, masks = torch.from_numpy(view.boxes), torch.from_numpy(view.masks)
        frames = window.expand(len(boxes), 4)
        if self.mini_mask_size is not None:
            masks, frames = mini_masks(masks, boxes, self.mini_mask_size), boxes + shift
        crowd_boxes = torch.from_numpy(view.crowd_boxes) + shift
        return ImageObjects(boxes + shift, torch.from_numpy(view.class_ids), masks, frames, crowd_boxes)


def mini_masks(masks: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Each mask cut to its box and resized to [G, size, size] uint8: bilinear, zero outside, rounded half to even.

    `masks` [G, H, W] uint8, `boxes` [G, 4] whole pixels, the tight boxes of the masks (so that nothing but zeros lies
    outside them). Memory falls from H x W to size x size an object.
    """
    made = torch.zeros(len(masks), size, size, dtype=torch.uint8)
    for out, mask, (x1, y1, x2, y2) in zip(made, masks, boxes.long().tolist(), strict=True):
        cut = F.pad(mask[y1:y2, x1:x2], (1, 1, 1, 1)).float()
        rows, columns = _lerp_matrix(y2 - y1, size), _lerp_matrix(x2 - x1, size)
        out.copy_((rows @ cut @ columns.T).round())
    return made


def _lerp_matrix(length: int, size: int) -> Tensor:
    """[size, length + 2]: weights that resize an axis, padded by one on both sides, by linear interpolation."""
    position = (torch.arange(size) + 0.5) * (length / size) + 0.5
    low = position.floor().clamp(0, length)
    part = position - low
    weights = torch.zeros(size, length + 2)
    rows = torch.arange(size)
    weights[rows, low.long()] = 1 - part
    weights[rows, low.long() + 1] += part
    return weights


def _quiet_worker(_: int) -> None:
    """Signals, which a terminal or a service manager sends to the whole group, are the training process's to answer;
    a loading process ends when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
