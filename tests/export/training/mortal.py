"""`export.train` whose process 1 is killed in its first life: `torchrun ... -m tests.export.training.mortal DIR ...`.

The further arguments are `export.train`'s. `DIR/LIFE-RANK.txt` has the names of the training pictures in the order in
which a process read them; process 1 is killed when it is to read its seventh.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from export import train
from export.training.coco import CocoSet
from export.training.dataset import Picture

FATAL_READ = 7


class MortalSet(CocoSet):
    def __init__(self, root: Path, split: str, cache_mb: int = 1024) -> None:
        super().__init__(root, split, cache_mb)
        life, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
        self.log = Path(sys.argv[1]) / f"{life}-{rank}.txt" if split == "train" else None
        self.reads_left = FATAL_READ if (life, rank, split) == ("0", "1", "train") else sys.maxsize

    def __getitem__(self, index: int) -> Picture:
        self.reads_left -= 1
        if self.reads_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        picture = super().__getitem__(index)
        if self.log:
            with self.log.open("a") as file:
                print(picture.name, file=file)
        return picture


if __name__ == "__main__":
    from export.training import setup

    setup.CocoSet = MortalSet  # type: ignore[misc]  # the command has no other way to a data set of one's own
    sys.exit(train.main(sys.argv[2:]))
