"""Writes a model repository for NVIDIA's Triton Inference Server from a bundle.

    maskline export-triton models/mine --output triton

Triton then runs the bundle's TensorRT plan with our plugins; where the bundle has no plan, its ONNX file in ONNX
Runtime. The repository's README.md says how to start Triton and how to ask it. Exit status: 0 done, 2 wrong usage or a
bundle that cannot be exported.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.triton_texts import Served, config, readme
from plugins.loader import PluginLibraryError, library_path
from server.contract.errors import BundleError
from server.repository import CARD_FILE, Bundle, load_bundle

PLUGIN_LIBRARY = "libmaskline_plugins_registered.so"
"""Triton does no more than load it: it registers the plugins by itself."""

ENGINES = ("tensorrt", "onnxruntime")
"""By preference."""


class ExportError(Exception):
    """The repository cannot be written; the message is for the person who asked for it."""


@dataclass(frozen=True)
class Written:
    """What came out. `missing_library`: the plan needs our plugins, and no library of them was found."""

    served: Served
    missing_library: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        written = export(arguments.bundle, arguments.output, arguments.name, arguments.engine)
    except (ExportError, BundleError) as error:
        print(f"export-triton: {error}", file=sys.stderr)
        return 2
    if written.missing_library:
        print(
            f"export-triton: {PLUGIN_LIBRARY} was not found. Build it with: make plugins; then copy it from "
            f"plugins/build to {arguments.output}: the plan needs it.",
            file=sys.stderr,
        )
    print(f"{arguments.output / 'README.md'} says how to serve {written.served.name} with Triton.")
    return 0


def export(bundle_dir: Path, output: Path, name: str | None, engine: str | None) -> Written:
    """Writes the repository, whole or not at all.

    Args:
        bundle_dir: the bundle.
        output: a folder that is not there or is empty.
        name: of the model in Triton; None: as the bundle calls it.
        engine: `tensorrt` or `onnxruntime`; None: the first of them that the bundle has a file for.

    Raises:
        BundleError: `bundle_dir` is not a bundle, or is not as it was built.
        ExportError: the output is not empty or cannot be written, or the bundle has no such file.
    """
    bundle = load_bundle(bundle_dir)
    served = _served(bundle, name, engine)
    library = _plugin_library() if served.needs_library else None
    with _appearing(output) as draft:
        _write(bundle, served, library, draft)
    return Written(served, missing_library=served.needs_library and library is None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maskline export-triton", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="a folder with model.json")
    add("--output", type=Path, required=True, metavar="REPOSITORY", help="a new or an empty folder")
    add("--name", type=_name, metavar="N", help="the model's name in Triton (default: the bundle's)")
    add("--engine", choices=ENGINES, help="default: tensorrt where the bundle has a plan, else onnxruntime")
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of letters, digits, '.', '_' and '-'")
    return text


def _served(bundle: Bundle, name: str | None, engine: str | None) -> Served:
    has = {file.engine for file in bundle.card.files}
    engine = engine or next((known for known in ENGINES if known in has), None)
    if engine is None or engine not in has:
        missing = "TensorRT plan" if engine == "tensorrt" else "ONNX file"
        raise ExportError(
            f"{bundle.path} has no {missing}. Build one: maskline build --weights WEIGHTS --output {bundle.path}"
            f"{' --engine tensorrt' if engine == 'tensorrt' else ''}"
        )
    return Served(name or bundle.card.name, _version(bundle.card.version), bundle.card, bundle.file_for(engine)[1])


def _version(version: str) -> str:
    """The card's, where Triton can have it as a folder: a whole number above zero."""
    return version if re.fullmatch(r"[1-9][0-9]{0,8}", version) else "1"


def _plugin_library() -> Path | None:
    try:
        path = library_path().with_name(PLUGIN_LIBRARY)
    except PluginLibraryError:
        return None
    return path if path.is_file() else None


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A new folder that becomes `output` when the block ends, and goes when it raises."""
    output = output.absolute()
    try:
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise ExportError(f"{output} is there and is not an empty folder. Name another --output.")
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise ExportError(f"{output} cannot be written: {error.strerror or error}.") from error
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp keeps a folder to its owner; Triton may be somebody else
        draft.replace(output)
    except OSError as error:
        raise ExportError(f"{output} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(bundle: Bundle, served: Served, library: Path | None, repository: Path) -> None:
    """Only models are folders of a repository: Triton takes every other folder for one that it cannot load."""
    model = repository / served.name
    version = model / served.version
    version.mkdir(parents=True)
    shutil.copyfile(bundle.path / served.file.path, version / served.filename)
    shutil.copyfile(bundle.path / CARD_FILE, model / CARD_FILE)
    _write_text(model / "config.pbtxt", config(served))
    _write_text(model / "labels.txt", "".join(f"{label}\n" for label in served.card.classes))
    _write_text(repository / "README.md", readme(served, PLUGIN_LIBRARY))
    if library is not None:
        shutil.copyfile(library, repository / PLUGIN_LIBRARY)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
