"""Find the objects in many pictures without a server, in this process or on a Ray cluster.

maskline batch pictures/ --model BUNDLE --output results.json
maskline batch coco:DIR --split val --model BUNDLE --output results.json
maskline batch pictures.parquet --model BUNDLE --output results.json --ray

The source is a folder with all pictures below it, a COCO dataset (DIR/annotations/instances_SPLIT.json with pictures in
DIR/SPLIT; images keep their ids), or a Parquet file with a column of picture files or of their paths. The output is a
COCO dataset. A run that was ended, by whatever, goes on with --resume, and then writes what it would have written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from clients.errors import MasklineError
from clients.failures import sentence
from clients.folder import PictureFile, same_name
from clients.outputs import Results
from clients.shown import Shown
from clients.sources import Shard, SourceError, open_source

if TYPE_CHECKING:
    from clients.exchange import Options
    from clients.in_process import Answers, Found

ENGINES = ("auto", "onnxruntime", "openvino", "tensorrt", "fake")
LOCAL = "local"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 when a picture got no answer, or a file cannot be read or written; 2 for bad usage."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.output.suffix != ".json":
        parser.error(f"--output {arguments.output}: give a file.json")
    try:
        return _run(arguments)
    except SourceError as error:
        parser.error(str(error))
    except MasklineError as error:
        print(sentence(error), file=sys.stderr)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
    return 1


def _run(arguments: argparse.Namespace) -> int:
    shards = open_source(arguments.source, arguments.split, arguments.column)
    listed = [shard.listed() for shard in shards]
    _check_names([picture for each in listed for picture in each])
    shown = Shown(writes=True, prints=False)
    try:
        with ExitStack() as stack:
            output = stack.enter_context(closing(Results(arguments.output, arguments.resume)))
            held = [sum(map(output.holds, each)) for each in listed]
            left = [shard for shard, each, n in zip(shards, listed, held, strict=True) if n < len(each)]
            shown.start(sum(map(len, listed)) - sum(held), sum(held))
            stack.callback(shown.stop)
            answers = stack.enter_context(closing(_answers(arguments, left, output)))
            good = [_take(output, shown, *each) for each in answers if not output.holds(each[0])]
    finally:
        shown.summary([arguments.output])
    return 0 if all(good) else 1


def _answers(arguments: argparse.Namespace, shards: list[Shard], output: Results) -> Answers:
    from clients.exchange import query
    from clients.in_process import Job

    job = Job(str(arguments.model.resolve()), query(_options(arguments)), arguments.engine)
    if arguments.ray is None:
        return job.answer(shards, output.holds, None)
    from clients.on_ray import answer_on_ray

    return answer_on_ray(None if arguments.ray == LOCAL else arguments.ray, job, shards)


def _take(output: Results, shown: Shown, picture: PictureFile, found: Found) -> bool:
    """Whether the picture has an answer."""
    shown.step()
    if isinstance(found, MasklineError):
        shown.say(f"{picture.name}: {sentence(found)}")
        return False
    shown.answer(picture, found)
    output.add(picture, found)
    return True


def _check_names(pictures: Sequence[PictureFile]) -> None:
    if same := same_name(pictures, without_ending=False):
        raise MasklineError(f"{same[0]} and {same[1]} have one name: the output could not tell them apart.")


def _options(arguments: argparse.Namespace) -> Options:
    return {
        "score_threshold": arguments.score_threshold,
        "max_detections": arguments.max_detections,
        "classes": arguments.classes,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a folder, coco:DIR, or a file.parquet")
    add("--model", type=Path, required=True, metavar="BUNDLE", help="the bundle that answers")
    add("--output", type=Path, required=True, metavar="FILE.json", help="what is written")
    add("--resume", action="store_true", help="leave out the pictures that the output has already")
    add(
        "--ray",
        nargs="?",
        const=LOCAL,
        metavar="ADDRESS",
        help="on a Ray cluster; without an address it starts one",
    )
    add("--engine", choices=ENGINES, default="auto", help="what runs the model (default auto)")
    add("--split", default="val", help="of a COCO dataset (default val)")
    add("--column", default="image", help="of a Parquet file (default image)")
    add("--score-threshold", type=float, metavar="SCORE", help="0 to 1 (default: the model's own)")
    add("--max-detections", type=int, metavar="N", help="at most so many (default: the model's own)")
    add("--classes", metavar="NAMES", help="only these, by name or id, separated by commas")
    return parser


if __name__ == "__main__":
    sys.exit(main())
