"""The `maskline` command: `maskline COMMAND ...`. Each command lives in its own module, found by name when called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from clients.errors import MissingExtraError

OURS = ("clients", "export", "plugins", "server")


@dataclass(frozen=True)
class Command:
    """`module` has `main(argv) -> int`; `extra` is what it needs installed."""

    module: str
    extra: str
    summary: str


COMMANDS = {
    "serve": Command("server.__main__", "server,cpu", "serve models over HTTP"),
    "predict": Command("clients.predict", "client", "find the objects in pictures, through a server or in process"),
    "batch": Command(
        "clients.batch", "client,server,cpu", "the same for many, without a server, on this machine or on Ray"
    ),
    "loadtest": Command("clients.loadtest.__main__", "client", "load a server and report latency and throughput"),
    "plan": Command("clients.planning.__main__", "client", "say how many replicas a traffic needs, from a load test"),
    "samples": Command("clients.samples", "client", "make sample pictures to try the demo model on"),
    "train": Command("export.train", "export,cpu", "train a model"),
    "build": Command("export.build_engine", "export,cpu", "turn weights into a bundle that can be served"),
    "evaluate": Command("export.evaluate", "export,cpu", "measure COCO box and mask AP"),
    "diff": Command(
        "clients.diff.__main__", "client,server,cpu", "show what changes between the answers of two models"
    ),
    "export-triton": Command("export.triton_repository", "server", "write a model repository for Triton from a bundle"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; 2 for one that does not exist or has a library missing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in COMMANDS:
        _parser().parse_args(arguments)
    name, *rest = arguments
    # The usage lines of the command then say what was typed.
    sys.argv = [f"maskline {name}", *rest]
    try:
        return _run(name, rest)
    except MissingExtraError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(name: str, arguments: list[str]) -> int:
    command = COMMANDS[name]
    try:
        status: int = importlib.import_module(command.module).main(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in OURS:
            raise  # a mistake of ours, not a missing extra
        raise MissingExtraError(f"maskline {name}", missing, command.extra) from error
    return status


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="maskline",
        description="Train, compile and serve Mask R-CNN.",
        epilog=f"commands:\n{listing}\n\nmaskline COMMAND --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="maskline COMMAND ...",
    )
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
