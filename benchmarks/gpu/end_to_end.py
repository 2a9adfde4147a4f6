"""A whole Mask R-CNN on the GPU at hand: torchvision's own code beside a bundle, with the same weights.

    python benchmarks/gpu/end_to_end.py --weights torchvision:maskrcnn_resnet50_fpn --pictures photos/
    python benchmarks/gpu/end_to_end.py --weights model.pth --bundle models/fp32 --bundle models/fp16
    python benchmarks/gpu/end_to_end.py --bundle models/fp16        # engines only: torchvision needs the weights

Without --bundle, bundles in fp32 and in fp16 are built from the weights. A bundle runs in each engine that is installed
and that it has a file for: TensorRT, and ONNX Runtime through CUDA. Needs an NVIDIA GPU and Maskline's extras export
and gpu or tensorrt. Exit status: 0 done, 1 answers do not agree, 2 it cannot run here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project need not be installed

from benchmarks.gpu import baselines, contestants, measuring
from benchmarks.gpu.contestants import Contestant
from benchmarks.gpu.kernel_library import BenchmarkError

if TYPE_CHECKING:
    from export.weights import Imported
    from server.pictures.decode import Picture
    from server.pipeline import Pipeline

BATCHES = (1, 8)
REPETITIONS = 30
PRECISIONS = ("fp32", "fp16")
LEAST_SCORE = 0.5
LEAST_AGREEMENT = {"fp32": 0.95, "fp16": 0.9, "int8": 0.8}
"""Of detections, with the first contestant's; less is a failure."""

GENERATED_HW = (720, 960)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.weights is None and not arguments.bundle:
        parser.error("give --weights, --bundle, or both")
    try:
        machine = baselines.check_gpu()
        print(machine)
        return _run(arguments, machine)
    except BenchmarkError as error:
        print(f"end_to_end: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"end_to_end: {error.name} is not installed: pip install -e '.[export,server,gpu]'.", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", metavar="SRC", help="as of maskline build; torchvision's code is compared where they are its own")
    add("--bundle", type=Path, action="append", default=[], metavar="DIR", help="a bundle of these weights; repeatable")
    add("--pictures", type=Path, metavar="DIR", help="a folder of pictures (default: generated ones)")
    add("--json", type=Path, metavar="FILE", help="write the times there")
    return parser


def _run(arguments: argparse.Namespace, machine: str) -> int:
    pictures = read_pictures(arguments.pictures)
    with ExitStack() as stack:
        bundles = arguments.bundle or list(_built(arguments.weights, stack))
        entered = [*_eager(arguments.weights), *_engines(bundles, stack)]
        if not entered:
            raise BenchmarkError("No engine on the GPU can run the bundles; what each lacks is said above.")
        rows, agreed = compare(entered, pictures)
    print(measuring.table(rows))
    if arguments.json is not None:
        measuring.write_report(arguments.json, machine, rows)
    return 0 if agreed else 1


def _imported(weights: str) -> Imported:
    from export.weights import WeightsError, load, resolve

    try:
        return load(resolve(weights))
    except WeightsError as error:
        raise BenchmarkError(str(error)) from error


def _eager(weights: str | None) -> Iterator[tuple[Contestant, str]]:
    """torchvision's model, where the weights are its own, and the least precision of each."""
    imported = _imported(weights) if weights is not None else None
    if imported is None or imported.model.config.family != "torchvision":
        return
    model = contestants.torchvision_model(imported)
    for precision in PRECISIONS:
        name = f"torchvision eager {precision}"
        yield contestants.torchvision_eager(name, model, half=precision == "fp16"), precision


def _built(weights: str, stack: ExitStack) -> Iterator[Path]:
    """Bundles of the weights in a folder that goes with `stack`. Raises `BenchmarkError` where the build fails."""
    from export.build_engine import main as build

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    engine = "onnx" if find_spec("tensorrt") is None else "tensorrt"
    for precision in PRECISIONS:
        output = folder / precision
        options = ["--weights", weights, "--output", str(output), "--precision", precision, "--engine", engine]
        if build(options):
            raise BenchmarkError(f"The bundle in {precision} could not be built; the reason is above.")
        yield output


def _engines(bundles: Sequence[Path], stack: ExitStack) -> Iterator[tuple[Contestant, str]]:
    """Every bundle in every engine of the GPU that takes it; what does not run is said."""
    from server.contract.errors import BundleError
    from server.pipeline import Pipeline

    for bundle in bundles:
        for engine in ("tensorrt", "onnxruntime"):
            try:
                pipeline = Pipeline.open(bundle, engine)
            except BundleError as error:
                print(f"{bundle} does not run in {engine}: {error}")
                continue
            stack.callback(pipeline.engine.close)
            if not _takes_part(pipeline, bundle):
                continue
            precision = next(file.precision for file in pipeline.card.files if file.engine == engine)
            name = f"{'TensorRT' if engine == 'tensorrt' else 'ONNX Runtime CUDA'} {precision}, {bundle.name}"
            yield contestants.engine(name, pipeline), precision


def _takes_part(pipeline: Pipeline, bundle: Path) -> bool:
    engine, most = pipeline.engine, max(BATCHES)
    if " CPU " in engine.description:
        print(f"{bundle} does not run on the GPU: {engine.description}.")
        return False
    if engine.max_batch is not None and engine.max_batch < most:
        print(f"{bundle} takes {engine.max_batch} pictures at once; build it with --max-batch {most}.")
        return False
    return True


def read_pictures(folder: Path | None) -> list[Picture]:
    """As many as the largest batch: of the size most common in the folder, and some several times if need be."""
    most = max(BATCHES)
    if folder is None:
        return [_generated(seed) for seed in range(most)]
    from export.pictures import PicturesError, read_examples

    try:
        found = [example.picture for example in read_examples(folder)]
    except PicturesError as error:
        raise BenchmarkError(str(error)) from error
    sizes = [picture.shape for picture in found]
    same = [picture for picture in found if picture.shape == max(sizes, key=sizes.count)]
    return [same[i % len(same)] for i in range(most)]


def _generated(seed: int) -> Picture:
    """Coloured ellipses on noise."""
    import numpy as np
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(90, 130, (*GENERATED_HW, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for x, y, w, h in rng.uniform((0, 0, 20, 20), (900, 660, 200, 200), (25, 4)):
        draw.ellipse((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return np.array(image)


def compare(
    entered: Sequence[tuple[Contestant, str]], pictures: Sequence[Picture]
) -> tuple[list[dict[str, Any]], bool]:
    """Rows of times, and whether each contestant finds what the first one finds."""
    agreed = True
    expected = entered[0][0].answer(pictures)
    for contestant, precision in entered:
        part = contestants.agreement(expected, contestant.answer(pictures), LEAST_SCORE)
        agreed = agreed and part >= LEAST_AGREEMENT[precision]
        print(f"{contestant.name}: {part:.1%} of the detections of {entered[0][0].name} found")
    names = [contestant for contestant, _ in entered]
    rows = [row for batch in BATCHES for row in _timed(names, pictures[:batch])]
    return rows, agreed


def _timed(entered: Sequence[Contestant], pictures: Sequence[Picture]) -> Iterator[dict[str, Any]]:
    whole = {one.name: _answering(one, pictures) for one in entered}
    networks = {one.name: _running(one.network(pictures)) for one in entered}
    for what, variants in (("picture to answer", whole), ("network alone", networks)):
        summaries = measuring.measure(variants, 1, REPETITIONS, wall_clock)
        yield from measuring.rows(f"{what}, batch {len(pictures)}", summaries, entered[0].name, {}, 1.0)


def _answering(contestant: Contestant, pictures: Sequence[Picture]) -> measuring.Run:
    return lambda _: contestant.answer(pictures)


def _running(run: Callable[[], object]) -> measuring.Run:
    return lambda _: run()


def wall_clock(work: Callable[[], object]) -> float:
    """Microseconds; the work ends in host memory, so that the GPU has nothing left to do."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e6


if __name__ == "__main__":
    sys.exit(main())
