"""COCO average precision of a checkpoint, a bundle or a running server.

    python export/evaluate.py --model runs/nuclei/best.pt --data coco:DIR
    python export/evaluate.py --model models/nuclei --data coco:DIR --max-detections 500
    python export/evaluate.py --model http://127.0.0.1:8000 --data coco:DIR --split val --output results.json

`coco:DIR` is DIR/annotations/instances_SPLIT.json with pictures in DIR/SPLIT. The model's classes are matched with the
data's categories by name. Every detection down to the model's own score limit counts. The results are also written in
COCO's format. Exit status: 0 done, 2 wrong usage, data or model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from rich.console import Console

    from server.contract.wire import ImageResult, PredictOptions

    Predict = Callable[[bytes], ImageResult]

CONCURRENCY = 4
"""Requests under way at once where the model is a server."""


class UsageError(Exception):
    """The command cannot do what it was asked for; the message is for the person who asked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    from rich.console import Console

    console = Console(stderr=True)
    try:
        _run(arguments, console)
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            raise
        console.print(f"evaluate: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, metavar="CHECKPOINT|BUNDLE|URL", help="what to evaluate")
    add("--data", required=True, metavar="coco:DIR", help="annotated pictures")
    add("--split", default="val", metavar="NAME", help="default: %(default)s")
    add("--max-detections", type=int, default=100, metavar="N", help="most detections a picture (default: %(default)s)")
    add("--score-threshold", type=float, metavar="T", help="default: the model's own limit")
    add("--output", type=Path, default=Path("results.json"), metavar="FILE", help="default: %(default)s")
    return parser


def _expected_errors() -> tuple[type[Exception], ...]:
    from export.training.dataset import DatasetError
    from export.weights import WeightsError
    from server.contract.errors import MasklineError

    return (UsageError, WeightsError, DatasetError, MasklineError)


def _run(arguments: argparse.Namespace, console: Console) -> None:
    from export.average_precision import average_precision

    options = _options(arguments)
    if not arguments.output.absolute().parent.is_dir():
        raise UsageError(f"{arguments.output} cannot be written: there is no such folder.")
    folder, truth = _open_data(arguments.data, arguments.split)
    with console.status("Opening the model"):
        predict, workers = _open_model(arguments, options)
    answers = _predict_all(predict, workers, truth, folder, console)
    results = _coco_results(answers, truth, console)
    arguments.output.write_text(json.dumps(results), encoding="utf-8")
    box, mask = (average_precision(truth, results, kind, arguments.max_detections) for kind in ("bbox", "segm"))
    _print_figures(box, mask, f"{len(results)} detections in {len(answers)} pictures")
    console.print(f"{arguments.output} holds the detections.", markup=False, highlight=False)


def _options(arguments: argparse.Namespace) -> PredictOptions:
    from pydantic import ValidationError

    from server.contract.wire import PredictOptions

    try:
        return PredictOptions(max_detections=arguments.max_detections, score_threshold=arguments.score_threshold or 0.0)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        flag = f"--{first['loc'][0]}".replace("_", "-")
        raise UsageError(f"{flag} {first['input']} cannot be used: {first['msg']}.") from error


def _open_data(data: str, split: str) -> tuple[Path, COCO]:
    """The folder of the pictures, and the annotations, once they have been found sound."""
    from export.average_precision import read_truth
    from export.training.coco import CocoSet

    scheme, _, place = data.partition(":")
    if scheme != "coco" or not place:
        raise UsageError(f"--data {data} is not coco:DIR.")
    pictures = CocoSet(Path(place), split)
    return pictures.picture_folder, read_truth(str(pictures.annotation_file))


def _open_model(arguments: argparse.Namespace, options: PredictOptions) -> tuple[Predict, int]:
    """A function from a picture file to its detections, and how many calls of it may run at once."""
    model: str = arguments.model
    if model.startswith(("http://", "https://")):
        from export.remote import RemoteModel

        return RemoteModel(model, options).predict, CONCURRENCY
    from server.pipeline import Pipeline

    if Path(model).is_dir():
        pipeline = Pipeline.open(model)
    else:
        from export.torch_engine import open_checkpoint

        pipeline = Pipeline(open_checkpoint(Path(model), arguments.max_detections, arguments.score_threshold))
    return lambda picture: pipeline.predict(picture, options), 1


def _predict_all(
    predict: Predict, workers: int, truth: COCO, folder: Path, console: Console
) -> list[tuple[int, ImageResult]]:
    """(image id, detections) of every picture, in the order of the annotation file."""
    from concurrent.futures import ThreadPoolExecutor

    from rich.progress import track

    records = truth.dataset["images"]

    def answer(record: dict[str, Any]) -> tuple[int, ImageResult]:
        return record["id"], predict((folder / record["file_name"]).read_bytes())

    with ThreadPoolExecutor(workers) as executor:
        answers = executor.map(answer, records)
        try:
            return list(track(answers, "Evaluating", total=len(records), console=console, transient=True))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _coco_results(answers: Sequence[tuple[int, ImageResult]], truth: COCO, console: Console) -> list[dict[str, Any]]:
    """Detections in COCO's results format. Raises `UsageError` when no class is one of the data's."""
    from export.annotated import coco_results

    categories = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    results = list(coco_results(answers, categories))
    unknown = {d.class_name for _, answer in answers for d in answer.detections} - set(categories)
    if unknown and not results:
        raise UsageError(
            f"The model finds {', '.join(sorted(unknown))}, but the data is about {', '.join(sorted(categories))}."
        )
    if unknown:
        console.print(f"Not in the data, so left out: {', '.join(sorted(unknown))}.", markup=False)
    return results


def _print_figures(box: Any, mask: Any, title: str) -> None:
    from dataclasses import fields

    from rich.console import Console
    from rich.table import Table

    table = Table("", "box", "mask", title=title)
    for field in fields(box):
        name = field.name.replace("_", " ").replace("ap", "AP")
        figures = (getattr(judged, field.name) for judged in (box, mask))
        table.add_row(name, *("-" if figure != figure else f"{figure:.4f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
