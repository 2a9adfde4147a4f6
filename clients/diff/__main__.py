"""What changes between the answers of two models, as a page, before one of them takes the other's place.

maskline diff models/v1 models/v2 pictures/
maskline diff http://127.0.0.1:8000 models/v2 data/val --annotations data/annotations/instances_val.json

A and B are each a bundle, answered for in this process, or the address of a server. OUTPUT.html shows objects lost,
gained and of another class, and the pictures with the most change; OUTPUT.json beside it has the figures for programs.
Exit status, as of diff: 0 no object is lost, gained or of another class; 1 some are; 2 trouble: bad usage, or pictures
without an answer from both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.errors import MasklineError
from clients.failures import is_hopeless, sentence
from clients.folder import SUFFIXES, PictureFile, find
from clients.shown import Shown

if TYPE_CHECKING:
    from clients.diff.drift import Drift
    from clients.diff.precision import Judge
    from clients.diff.sides import BothFound, Found

SAME, DIFFERENT, TROUBLE, INTERRUPTED = 0, 1, 2, 130


@dataclass
class Run:
    """What has come of the pictures so far."""

    drift: Drift
    judge: Judge | None
    failures: dict[str, str] = field(default_factory=dict)
    """By picture."""
    interrupted: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: see above."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.output.suffix != ".html":
        parser.error(f"--output {arguments.output}: give a file.html")
    if not 0 <= arguments.score_threshold <= 1:
        parser.error(f"--score-threshold {arguments.score_threshold}: give a score from 0 to 1")
    try:
        return _run(arguments)
    except MasklineError as error:
        print(sentence(error), file=sys.stderr)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
    return TROUBLE


def _run(arguments: argparse.Namespace) -> int:
    from clients.diff.drift import Drift
    from clients.diff.sides import answers_of_both

    pictures = _pictures(arguments.images)
    run = Run(Drift(arguments.score_threshold), _judge(arguments.annotations, pictures))
    shown = Shown(writes=True, prints=False)
    shown.start(len(pictures), 0)
    try:
        with closing(answers_of_both(arguments.a, arguments.b, pictures, arguments.api_key)) as answers:
            _compare(run, answers, shown)
    except KeyboardInterrupt:
        run.interrupted = True
    finally:
        shown.stop()
    if not run.drift.pictures:
        print("No picture was compared, and nothing is written.", file=sys.stderr)
        return INTERRUPTED if run.interrupted else TROUBLE
    return _write(arguments, run, len(pictures))


def _pictures(images: Path) -> list[PictureFile]:
    if not images.exists():
        raise MasklineError(f"{images}: no such file or folder.")
    if found := find([images], []):
        return found
    raise MasklineError(f"{images}: no pictures there ({', '.join(SUFFIXES)}).")


def _judge(annotations: Path | None, pictures: Sequence[PictureFile]) -> Judge | None:
    if annotations is None:
        return None
    from clients.diff.precision import AnnotationsError, Judge

    judge = Judge(annotations)
    if not any(judge.knows(str(picture.name)) for picture in pictures):
        raise AnnotationsError(
            f"{annotations} has none of the pictures: {pictures[0].name} is not among its file names."
        )
    return judge


def _compare(run: Run, answers: BothFound, shown: Shown) -> None:
    """Ends early where the next picture would meet the same error."""
    for picture, *found in answers:
        shown.step()
        try:
            run.drift.add(picture, *map(_answer, found))
        except MasklineError as error:
            run.failures[str(picture.name)] = sentence(error)
            shown.say(f"{picture.name}: {sentence(error)}")
            if is_hopeless(error):
                return
        else:
            if run.judge:
                run.judge.add(str(picture.name), *map(_answer, found))


def _answer(found: Found) -> Any:
    if isinstance(found, MasklineError):
        raise found
    return found


def _write(arguments: argparse.Namespace, run: Run, total: int) -> int:
    from clients.diff.page import verdict, write_page
    from clients.outputs import replacing

    summary = _summary(arguments, run, total)
    html, figures = arguments.output, arguments.output.with_suffix(".json")
    html.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((html, write_page(run.drift, summary)), (figures, json.dumps(summary, indent=1) + "\n")):
        with replacing(path) as file:
            file.write(content.encode())
    for line in (
        verdict(summary),
        *_precision_lines(summary["average_precision"]),
        f"{html} and {figures.name} tell more.",
    ):
        print(line)
    return _status(run, summary, total)


def _summary(arguments: argparse.Namespace, run: Run, total: int) -> dict[str, Any]:
    models = run.drift.models or (None, None)
    sides = zip(("a", "b"), (arguments.a, arguments.b), models, strict=True)
    return {
        **{name: {"source": source, "model": model} for name, source, model in sides},
        "images": str(arguments.images),
        "failed": [{"file_name": name, "why": why} for name, why in run.failures.items()],
        "not_compared": total - len(run.drift.pictures) - len(run.failures),
        "average_precision": run.judge.figures() if run.judge else None,
        **run.drift.summary(),
    }


def _precision_lines(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    both = [(kind, *found[kind]["ap"]) for kind in ("box", "mask")]
    return [f"{kind} AP {a:.4f} -> {b:.4f} ({b - a:+.4f})" for kind, a, b in both if a is not None]


def _status(run: Run, summary: dict[str, Any], total: int) -> int:
    if run.failures:
        print(f"Not answered by both: {', '.join(run.failures)}", file=sys.stderr)
    if summary["not_compared"]:
        print(f"Not compared: {summary['not_compared']} of {total} pictures.", file=sys.stderr)
    if run.interrupted:
        return INTERRUPTED
    if run.failures or summary["not_compared"]:
        return TROUBLE
    return DIFFERENT if summary["different"] else SAME


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("a", metavar="A", help="a bundle or the address of a server: what is there now")
    add("b", metavar="B", help="another: what is to take its place")
    add("images", type=Path, metavar="IMAGES", help="a folder with all pictures below it, or a picture")
    add("--annotations", type=Path, metavar="FILE", help="a COCO file: average precision of both as well")
    add("--output", type=Path, default=Path("diff.html"), metavar="FILE.html", help="default %(default)s")
    add(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="SCORE",
        help="objects less sure are not compared (default %(default)s)",
    )
    add("--api-key", metavar="KEY", help="of servers; sent as a bearer token")
    return parser


if __name__ == "__main__":
    sys.exit(main())
