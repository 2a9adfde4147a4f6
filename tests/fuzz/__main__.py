"""`make fuzz`: runs each target for a while, guided by coverage; what breaks it is kept in the folder `fuzz/`.

    python -m tests.fuzz [TARGET ...] [--seconds 600]
    python -m tests.fuzz TARGET --replay FILE

Exit status: 0 when nothing broke, 1 when something did, 2 where atheris is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

FOLDER = Path("fuzz")
SLICE_S = 45
"""Seconds of one process, which goes on with the inputs that earlier ones kept: atheris' own instrumentation keeps
memory for good, up to 40 MiB a second."""
NAMES = ("rle", "form", "json", "query", "picture", "v2")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(NAMES)}; none: all")
    parser.add_argument("--seconds", type=int, default=600, help="for each target [600]")
    parser.add_argument("--replay", type=Path, help="a file that broke a target")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    targets = arguments.targets or NAMES
    if arguments.replay:
        return _replay(targets[0], arguments.replay.read_bytes())
    if importlib.util.find_spec("atheris") is None:
        print("Install atheris first (make fuzz does); it has wheels for Linux.", file=sys.stderr)
        return 2
    if arguments.child:
        return _fuzz(targets[0], arguments.seconds)
    results = [_in_processes(target, arguments.seconds) for target in targets]
    return int(any(results))


def _in_processes(target: str, seconds: int) -> int:
    """The fuzzer ends the process that it runs in. Stops at the first that something broke."""
    for done in range(0, seconds, SLICE_S):
        print(f"--- {target}: {done} of {seconds} s", flush=True)
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            target,
            "--child",
            "--seconds",
            str(min(SLICE_S, seconds - done)),
        ]
        if status := subprocess.run(command, check=False).returncode:
            return status
    return 0


def _fuzz(target: str, seconds: int) -> int:
    import atheris

    logging.disable()  # the form parser would tell of every oddity
    with atheris.instrument_imports(include=["server", "PIL", "python_multipart", "starlette.datastructures"]):
        from tests.fuzz.seeds import SEEDS
        from tests.fuzz.targets import TARGETS
    corpus = FOLDER / target
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(SEEDS[target]()):
        (corpus / f"seed-{index}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", "-max_len=65536", "-timeout=20", "-rss_limit_mb=3000", "-verbosity=0"]
    arguments = ["fuzz", *limits, "-print_final_stats=1", f"-artifact_prefix={FOLDER}/{target}-", str(corpus)]
    atheris.Setup(arguments, TARGETS[target])
    atheris.Fuzz()
    return 0


def _replay(target: str, data: bytes) -> int:
    from tests.fuzz.targets import TARGETS

    TARGETS[target](data)
    print("Nothing broke.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
