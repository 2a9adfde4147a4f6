"""Find the objects in pictures, through a server or, with --model, in this process.

maskline predict picture.jpg --draw out.png
maskline predict FOLDER --output results.json --output masks/ --output overlays/

An output is told by its name:
  results.json, or another .json   a COCO dataset: images, annotations with RLE masks and scores, categories
  masks/                           a 16-bit PNG a picture: 0 is the ground, k the k-th object by falling score
  overlays/                        a PNG a picture: masks, boxes and labels drawn over it
  -                                the COCO dataset on standard output
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clients.errors import MasklineError, MissingExtraError, UnreachableError
from clients.failures import is_hopeless, sentence
from clients.folder import SUFFIXES, PictureFile, find, same_name
from clients.outputs import STANDARD_OUTPUT, Output, is_folder, is_output, open_output
from clients.shown import Shown

if TYPE_CHECKING:
    from clients.exchange import Options
    from clients.prediction import Prediction

    Found = Prediction | MasklineError
    PredictMany = Callable[[Iterable[Path]], Generator[tuple[Path, Found], None, None]]

DEFAULT_URL = "http://127.0.0.1:8000"
_OPTIONS = ("score_threshold", "max_detections", "classes", "tile", "overlap", "timeout_ms", "priority")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 when a picture got no answer or no drawing, or an output cannot be written; 2 for bad usage."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        pictures = _pictures(arguments, parser)
        with _in_process(arguments) if arguments.model else _through_server(arguments) as predict_many:
            return _answer(arguments, pictures, predict_many)
    except MasklineError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""  # none: what reads our output has gone
        print(f"{where}{error.strerror}", file=sys.stderr)
    return 1


def _answer(arguments: argparse.Namespace, pictures: list[PictureFile], predict_many: PredictMany) -> int:
    shown = Shown(writes=bool(arguments.output), prints=STANDARD_OUTPUT in arguments.output)
    try:
        with ExitStack() as stack:  # closes every output, whatever happens, also to another one
            outputs = [stack.enter_context(closing(open_output(one, arguments.resume))) for one in arguments.output]
            left = [one for one in pictures if not (arguments.resume and all(output.holds(one) for output in outputs))]
            shown.start(len(left), len(pictures) - len(left))
            stack.callback(shown.stop)
            answers = stack.enter_context(closing(predict_many(one.path for one in left)))
            good = [_take(arguments, outputs, shown, one, found) for one, (_, found) in zip(left, answers, strict=True)]
    finally:
        shown.summary(arguments.output)
    return 0 if all(good) else 1


def _take(
    arguments: argparse.Namespace, outputs: list[Output], shown: Shown, picture: PictureFile, found: Found
) -> bool:
    """Whether all went well with one picture. Raises what would meet the next picture too."""
    shown.step()
    if isinstance(found, MasklineError) and is_hopeless(found):
        raise _explained(found, arguments.url)
    try:
        if isinstance(found, MasklineError):
            raise found
        shown.answer(picture, found)
        if arguments.draw:
            _draw(picture, found, arguments.draw)
        for output in outputs:
            output.add(picture, found)
    except (MasklineError, ValueError) as error:  # Pillow: ValueError for an unknown file ending
        shown.say(f"{picture.path}: {sentence(error).removeprefix(f'{picture.path}: ')}")
        return False
    return True


def _draw(picture: PictureFile, prediction: Prediction, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    prediction.draw(picture.path).save(target)


def _explained(error: MasklineError, url: str) -> MasklineError:
    if not isinstance(error, UnreachableError):
        return error
    start = "maskline serve" if url == DEFAULT_URL else "maskline serve --port PORT, and give its --url"
    return UnreachableError(
        f"{error}\nStart a server with: {start}. Or answer without one: maskline predict --model BUNDLE ..."
    )


@contextmanager
def _through_server(arguments: argparse.Namespace) -> Iterator[PredictMany]:
    from clients.client import Client

    with Client(arguments.url, api_key=arguments.api_key) as client:
        yield lambda paths: client.predict_many(paths, **_options(arguments))


@contextmanager
def _in_process(arguments: argparse.Namespace) -> Iterator[PredictMany]:
    """By module name: the client is installed, and type checked, without the server."""
    from clients.exchange import query
    from clients.picture import encode
    from clients.prediction import from_image_result
    from server.contract.wire import PredictOptions

    try:
        pipeline = importlib.import_module("server.pipeline").Pipeline.open(arguments.model)
    except ModuleNotFoundError as error:
        raise MissingExtraError("answering in process", str(error.name), "server,cpu") from error

    def predict(path: Path) -> Found:
        try:
            result = pipeline.predict(encode(path), options)
        except MasklineError as error:
            return error
        return from_image_result(dataclasses.asdict(result), pipeline.card.name, pipeline.card.version)

    try:
        options = PredictOptions.from_query(query(_options(arguments)))
        yield lambda paths: ((path, predict(path)) for path in paths)
    finally:
        pipeline.engine.close()


def _options(arguments: argparse.Namespace) -> Options:
    options: Options = {name: getattr(arguments, name) for name in _OPTIONS}  # type: ignore[assignment]  # its keys
    return options


def _pictures(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[PictureFile]:
    """What the command line names. Ends the program where it cannot be meant so."""
    missing = [path for path in arguments.pictures if not path.exists()]
    if missing:
        parser.error(f"{missing[0]}: no such file or folder")
    unknown = [target for target in arguments.output if not is_output(target)]
    if unknown:
        parser.error(f"--output {unknown[0]}: give a file.json, a folder called masks or overlays, or - to print")
    if arguments.resume and not arguments.output:
        parser.error("--resume needs an --output to go on with")
    pictures = find(arguments.pictures, arguments.output)
    if not pictures:
        parser.error(f"{arguments.pictures[0]}: no pictures there ({', '.join(SUFFIXES)})")
    if arguments.draw and len(pictures) > 1:
        parser.error("--draw is for one picture; for several: --output overlays/")
    to_folders = any(is_folder(target) for target in arguments.output)
    same = same_name(pictures, without_ending=to_folders) if arguments.output else None
    if same:
        parser.error(f"{same[0]} and {same[1]} would have one name in the output")
    return pictures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("pictures", nargs="+", type=Path, metavar="PICTURE", help="files, or folders with all below them")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", default=DEFAULT_URL, help=f"the server (default {DEFAULT_URL})")
    where.add_argument("--model", type=Path, metavar="BUNDLE", help="answer in this process with this bundle")
    add("--output", type=Path, action="append", default=[], metavar="OUT", help="see above; several may be given")
    add("--resume", action="store_true", help="leave out the pictures that every output has already")
    add("--draw", type=Path, metavar="FILE", help="one picture with masks and boxes")
    add("--score-threshold", type=float, metavar="SCORE", help="0 to 1 (default: the model's own)")
    add("--max-detections", type=int, metavar="N", help="at most so many (default: the model's own)")
    add("--classes", metavar="NAMES", help="only these, by name or id, separated by commas")
    add("--tile", type=int, metavar="PIXELS", help="look at large pictures in squares of this side")
    add("--overlap", type=int, metavar="PIXELS", help="what neighbouring tiles share")
    add("--timeout-ms", type=int, metavar="MS", help="for each picture (default: the server's)")
    add("--priority", choices=("normal", "low"), help="low: wait while other requests do")
    add("--api-key", metavar="KEY", help="sent as a bearer token")
    return parser


if __name__ == "__main__":
    sys.exit(main())
