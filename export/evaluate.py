"""COCO average precision of a checkpoint, a bundle or a running server.

    python export/evaluate.py --model runs/nuclei/best.pt --data coco:DIR
    python export/evaluate.py --model models/nuclei --data coco:DIR --max-detections 500
    python export/evaluate.py --model http://127.0.0.1:8000 --data coco:DIR --split val --output results.json

`coco:DIR` is DIR/annotations/instances_SPLIT.json with pictures in DIR/SPLIT. The model's classes are matched with the
data's categories by name. Every detection down to the model's own score limit counts. The results are also written in
COCO's format. Exit status: 0 done, 1 when some pictures got no answer (figures and results are of the others), 2 wrong
usage, data or model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from rich.console import Console

    from server.contract.errors import MasklineError
    from server.contract.wire import ImageResult, PredictOptions
    from server.pipeline import Pipeline

    Found = ImageResult | MasklineError
    PredictMany = Callable[[Iterable[Path]], Iterator[Found]]


class UsageError(Exception):
    """The command cannot do what it was asked for; the message is for the person who asked."""


@dataclass
class Outcome:
    """`answers`: image id and detections, in the order of the annotation file; `failures`: why pictures, by their file
    names, got none. Of a run that was ended, both leave some out."""

    answers: list[tuple[int, ImageResult]] = field(default_factory=list)
    failures: dict[str, MasklineError] = field(default_factory=dict)
    interrupted: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    from rich.console import Console

    console = Console(stderr=True)
    try:
        return _run(arguments, console)
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            raise
        console.print(f"evaluate: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2


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
    add("--api-key", metavar="KEY", help="of a server; sent as a bearer token")
    add("--output", type=Path, default=Path("results.json"), metavar="FILE", help="default: %(default)s")
    return parser


def _expected_errors() -> tuple[type[Exception], ...]:
    from export.training.dataset import DatasetError
    from export.weights import WeightsError
    from server.contract.errors import MasklineError

    return (UsageError, WeightsError, DatasetError, MasklineError)


def _run(arguments: argparse.Namespace, console: Console) -> int:
    options = _options(arguments)
    if not arguments.output.absolute().parent.is_dir():
        raise UsageError(f"{arguments.output} cannot be written: there is no such folder.")
    folder, truth = _open_data(arguments.data, arguments.split)
    with console.status("Opening the model"):
        predict_many = _open_model(arguments, options)
    outcome = _predict_all(predict_many, truth, folder, console)
    if not outcome.answers and outcome.failures:
        raise next(iter(outcome.failures.values()))
    results = _coco_results(outcome.answers, truth, console)
    arguments.output.write_text(json.dumps(results), encoding="utf-8")
    if not outcome.interrupted:
        _judge(outcome, results, truth, arguments.max_detections)
    return _tell(outcome, len(truth.dataset["images"]), arguments.output, console)


def _judge(outcome: Outcome, results: list[dict[str, Any]], truth: COCO, max_detections: int) -> None:
    """Prints the figures, of the pictures that have an answer."""
    from export.average_precision import average_precision, of_images

    if outcome.failures:
        truth = of_images(truth, {image_id for image_id, _ in outcome.answers})
    box, mask = (average_precision(truth, results, kind, max_detections) for kind in ("bbox", "segm"))
    _print_figures(box, mask, f"{len(results)} detections in {len(outcome.answers)} pictures")


def _tell(outcome: Outcome, total: int, output: Path, console: Console) -> int:
    """What was written and what is missing, and the exit status."""
    answered, failed = len(outcome.answers), len(outcome.failures)
    lines = [f"No answer for {name}: {error}" for name, error in outcome.failures.items()]
    if failed and not outcome.interrupted and answered + failed < total:
        lines.append(f"The {total - answered - failed} pictures after it were not asked for.")
    if outcome.interrupted:
        lines.append("Stopped: there are no figures.")
    of_all = "the detections" if answered == total else f"the detections of {answered} of {total} pictures"
    for line in (*lines, f"{output} holds {of_all}."):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if outcome.interrupted:
        return 130
    return 0 if answered == total else 1


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


def _open_model(arguments: argparse.Namespace, options: PredictOptions) -> PredictMany:
    """A function from picture files to what is found in each, or why nothing could be."""
    model: str = arguments.model
    if model.startswith(("http://", "https://")):
        from export.remote import RemoteModel

        return RemoteModel(model, options, arguments.api_key).predict_many
    from server.pipeline import Pipeline

    if Path(model).is_dir():
        pipeline = Pipeline.open(model)
    else:
        from export.torch_engine import open_checkpoint

        pipeline = Pipeline(open_checkpoint(Path(model), arguments.max_detections, arguments.score_threshold))
    return lambda pictures: (_predict(pipeline, picture, options) for picture in pictures)


def _predict(pipeline: Pipeline, picture: Path, options: PredictOptions) -> Found:
    from server.contract.errors import PictureError

    try:
        return pipeline.predict(picture.read_bytes(), options)
    except PictureError as error:
        return error


def _predict_all(predict_many: PredictMany, truth: COCO, folder: Path, console: Console) -> Outcome:
    from contextlib import suppress

    from rich.progress import track

    from server.contract.errors import MasklineError

    records = truth.dataset["images"]
    found = predict_many(folder / record["file_name"] for record in records)
    outcome = Outcome(interrupted=True)
    with suppress(KeyboardInterrupt):
        shown = track(found, "Evaluating", total=len(records), console=console, transient=True)
        for record, one in zip(records, shown, strict=False):  # a server that is gone ends it early
            if isinstance(one, MasklineError):
                outcome.failures[record["file_name"]] = one
            else:
                outcome.answers.append((record["id"], one))
        outcome.interrupted = False
    return outcome


def _coco_results(answers: Sequence[tuple[int, ImageResult]], truth: COCO, console: Console) -> list[dict[str, Any]]:
    """Detections in COCO's results format. Raises `UsageError` when no class is one of the data's."""
    from export.annotated import coco_results

    categories = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    results = list(coco_results(answers, categories))
    found = {d.class_name for _, answer in answers for d in answer.detections}
    unknown, missing = sorted(found - set(categories)), sorted(set(_annotated(truth)) - found)
    if unknown and not results:
        names = ", ".join(sorted(categories))
        raise UsageError(f"The model finds {', '.join(unknown)}, but the data is about {names}.")
    if unknown:
        console.print(f"Not in the data, so left out: {', '.join(unknown)}.", markup=False)
    if found and missing:
        console.print(f"In the data, but never found: {', '.join(missing)}.", markup=False)
    return results


def _annotated(truth: COCO) -> Iterator[str]:
    """The names of the categories that have annotations."""
    used = {annotation["category_id"] for annotation in truth.dataset["annotations"]}
    return (category["name"] for category in truth.dataset["categories"] if category["id"] in used)


def _print_figures(box: Any, mask: Any, title: str) -> None:
    from dataclasses import fields

    from rich.console import Console
    from rich.table import Table

    table = Table("", "box", "mask", title=title)
    for one in fields(box):
        name = one.name.replace("_", " ").replace("ap", "AP")
        figures = (getattr(judged, one.name) for judged in (box, mask))
        table.add_row(name, *("-" if figure != figure else f"{figure:.4f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
