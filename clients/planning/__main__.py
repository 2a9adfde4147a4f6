"""How many replicas a traffic needs, from the report of a load test of one replica.

    maskline loadtest http://127.0.0.1:8000 pictures/ --concurrency 1,2,4,8,16,32
    maskline plan --rate 2000 --p99 200ms report/report.json

docs/planning.md says what is simulated and how near it came.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients.durations import seconds
from clients.errors import MissingExtraError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 with a plan, 1 where no number of replicas will do, 2 for bad usage or a report that lacks what is
    needed."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    from clients.loadtest.compare import NotAReportError, read
    from clients.planning.plan import CannotHoldError
    from clients.planning.service import NotEnoughError

    try:
        return _plan(read(arguments.report), arguments)
    except NotAReportError as error:
        print(error, file=sys.stderr)
        return 2
    except NotEnoughError as error:
        print(f"{arguments.report}: {error}", file=sys.stderr)
        return 2
    except CannotHoldError as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name != "rich":
            raise
        print(MissingExtraError("the planner", "rich", "client"), file=sys.stderr)
        return 1


def _plan(report: dict[str, Any], arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from clients.planning.plan import Planner
    from clients.planning.service import NotEnoughError, Server, Service
    from clients.planning.terminal import print_plan

    server, service = Server.of(report), Service.of(report)
    lasts_s = arguments.startup or report["server"].get("startup_s")
    if not lasts_s:
        raise NotEnoughError("It does not say how long a start takes: give --startup.")
    planner = Planner(service, server, arguments.arrivals, arguments.p99)
    print_plan(Console(), planner, arguments.rate, lasts_s)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("report", type=Path, help="report.json of a load test of one replica, or its folder")
    add("--rate", type=_rate, required=True, metavar="R", help="requests a second, to all replicas together")
    add("--p99", type=seconds, required=True, metavar="TIME", help="goal: 99 %% of the answers within 200ms, 1s")
    add("--arrivals", choices=("poisson", "constant"), default="poisson", help="of the requests (default poisson)")
    add(
        "--startup",
        type=seconds,
        metavar="TIME",
        help="until a dead replica is replaced (default: how long the start of the one in the report took)",
    )
    return parser


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
