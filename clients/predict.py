"""Find the objects in pictures, through a server or, with --model, in this process.

maskline predict picture.jpg --draw out.png
maskline predict *.png --model models/mine --json answers.json --draw drawn/
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.errors import APIError, MasklineError, MissingExtraError, UnreachableError

if TYPE_CHECKING:
    from clients.exchange import Options
    from clients.prediction import Prediction

    Predict = Callable[[bytes], Prediction]

DEFAULT_URL = "http://127.0.0.1:8000"
TABLE_ROWS = 25


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 when a picture got no answer or no drawing; 2 for bad usage, such as a missing file."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check(arguments, parser)
    try:
        with _in_process(arguments) if arguments.model else _through_server(arguments) as predict:
            return _answer(arguments, predict)
    except MasklineError as error:
        print(error, file=sys.stderr)
    except OSError as error:  # the JSON cannot be written
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
    return 1


def _answer(arguments: argparse.Namespace, predict: Predict) -> int:
    answers: dict[Path, Prediction] = {}
    status = 0
    for path in arguments.pictures:
        try:
            answers[path] = predict(path.read_bytes())
            _show(arguments, path, answers[path])
        except UnreachableError as error:
            print(f"{error}\n{_how_to_start(arguments.url)}", file=sys.stderr)
            return 1
        except (MasklineError, OSError, ValueError) as error:  # Pillow: ValueError for an unknown file ending
            print(f"{path}: {_sentence(error)}", file=sys.stderr)
            status = 1
    if arguments.json:
        _write_json(arguments.json, answers)
    return status


@contextmanager
def _through_server(arguments: argparse.Namespace) -> Iterator[Predict]:
    from clients.client import Client

    options = _options(arguments)
    with Client(arguments.url, api_key=arguments.api_key) as client:
        yield lambda picture: client.predict(picture, **options)


@contextmanager
def _in_process(arguments: argparse.Namespace) -> Iterator[Predict]:
    """By module name: the client is installed, and type checked, without the server."""
    from clients.exchange import query
    from clients.prediction import from_image_result
    from server.contract.wire import PredictOptions

    try:
        pipeline = importlib.import_module("server.pipeline").Pipeline.open(arguments.model)
    except ModuleNotFoundError as error:
        raise MissingExtraError("answering in process", str(error.name), "server,cpu") from error
    options = PredictOptions.from_query(query(_options(arguments)))

    def predict(picture: bytes) -> Prediction:
        result = pipeline.predict(picture, options)
        return from_image_result(dataclasses.asdict(result), pipeline.card.name, pipeline.card.version)

    yield predict
    pipeline.engine.close()


def _options(arguments: argparse.Namespace) -> Options:
    return {
        "score_threshold": arguments.score_threshold,
        "max_detections": arguments.max_detections,
        "classes": arguments.classes,
    }


def _show(arguments: argparse.Namespace, path: Path, prediction: Prediction) -> None:
    if arguments.json != "-":
        _print_table(path, prediction)
    if arguments.draw:
        target = _drawing(arguments, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        prediction.draw(path).save(target)


def _drawing(arguments: argparse.Namespace, path: Path) -> Path:
    target: Path = arguments.draw
    return target / f"{path.stem}.png" if len(arguments.pictures) > 1 or target.is_dir() else target


def _print_table(path: Path, prediction: Prediction) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{path.name}: {len(prediction)} found", caption=_rest(prediction))
    for name in ("#", "class", "score", "x1", "y1", "x2", "y2", "area"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for k, one in enumerate(prediction.detections[:TABLE_ROWS], start=1):
        table.add_row(str(k), one.label, f"{one.score:.3f}", *(f"{edge:.1f}" for edge in one.box), str(one.area))
    Console().print(table)


def _rest(prediction: Prediction) -> str | None:
    more = len(prediction) - TABLE_ROWS
    return f"and {more} more; --json FILE has all" if more > 0 else None


def _write_json(target: str, answers: dict[Path, Prediction]) -> None:
    """`{"images": [...]}` as the server answers, each picture with its `file`."""
    text = json.dumps({"images": [{"file": str(path), **_record(answer)} for path, answer in answers.items()]})
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")


def _record(prediction: Prediction) -> dict[str, Any]:
    detections = [one.to_wire() for one in prediction]
    return {"width": prediction.width, "height": prediction.height, "detections": detections}


def _sentence(error: Exception) -> str:
    if isinstance(error, APIError):
        return error.detail or error.title
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _how_to_start(url: str) -> str:
    start = "maskline serve" if url == DEFAULT_URL else "maskline serve --port PORT, and give its --url"
    return f"Start a server with: {start}. Or answer without one: maskline predict --model BUNDLE ..."


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    for path in arguments.pictures:
        if not path.is_file():
            parser.error(f"{path}: no such file")
    if arguments.draw and len(arguments.pictures) > 1:
        if arguments.draw.suffix:
            parser.error("--draw must name a folder when there are several pictures")
        if len({path.stem for path in arguments.pictures}) < len(arguments.pictures):
            parser.error("--draw would write two pictures to one file: their names differ only in folder or ending")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path, help="picture files")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", default=DEFAULT_URL, help=f"the server (default {DEFAULT_URL})")
    where.add_argument("--model", type=Path, metavar="BUNDLE", help="answer in this process with this bundle")
    parser.add_argument("--draw", type=Path, metavar="OUT", help="picture with masks and boxes; several: a folder")
    parser.add_argument("--json", metavar="OUT", help="all detections with their masks; - for standard output")
    parser.add_argument("--score-threshold", type=float, help="0 to 1 (default: the model's own)")
    parser.add_argument("--max-detections", type=int, help="at most so many (default: the model's own)")
    parser.add_argument("--classes", help="only these, by name or id, separated by commas")
    parser.add_argument("--api-key", help="sent as a bearer token")
    return parser


if __name__ == "__main__":
    sys.exit(main())
