"""The plan as a table and sentences."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table

from clients.planning.plan import Forecast, Outage, Planner

HEAD = ("replicas", "each/s", "busy", "batch", "p50", "p99", "refused", "goal")


def print_plan(console: Console, planner: Planner, rate: float, lasts_s: float) -> None:
    """Raises `CannotHoldError`. `lasts_s`: until a dead replica is replaced."""
    replicas = planner.fewest(rate)
    around = (replicas - 1, replicas, replicas + 1, math.ceil(1.25 * replicas), math.ceil(1.5 * replicas))
    forecasts = [planner.forecast(rate, count) for count in sorted({*around}) if count]
    console.print(_table(planner, forecasts))
    lines = [
        _answer(planner, rate, replicas),
        *_limits(planner, rate, replicas),
        *_deaths(planner, rate, lasts_s, around),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(planner: Planner, forecasts: list[Forecast]) -> Table:
    table = Table(title="latency in ms", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in HEAD:
        table.add_column(name, justify="right", no_wrap=True)
    for one in forecasts:
        goal = "holds" if planner.holds(one) else "missed" if one.measured else "beyond the load test"
        figures = (f"{one.rate:.4g}", f"{one.utilisation:.0%}", f"{one.batch:.1f}", _ms(one.p50_s), _ms(one.p99_s))
        table.add_row(str(one.replicas), *figures, f"{one.refused:.1%}", goal)
    return table


def _answer(planner: Planner, rate: float, replicas: int) -> str:
    spare = planner.highest_rate(replicas, rate) / rate - 1
    goal = f"{rate:g} requests a second with p99 within {_ms(planner.p99_s)} ms"
    return f"{goal}: {_counted(replicas)}, with room for {spare:.0%} more."


def _limits(planner: Planner, rate: float, replicas: int) -> list[str]:
    """What stands in the way of fewer replicas, where it is the load test."""
    lines = []
    if replicas > 1 and not planner.forecast(rate, replicas - 1).measured:
        highest = f"{planner.service.highest:.4g} requests a second"
        lines.append(f"The load test answered {highest} at most, and no replica is planned for more.")
    if planner.service.largest < planner.server.max_batch_size:
        sizes = f"Batches of more than {planner.service.largest} were not measured"
        lines.append(f"{sizes}; up to {planner.server.max_batch_size} they lie on a line with those that were.")
    return lines


def _deaths(planner: Planner, rate: float, lasts_s: float, around: tuple[int, ...]) -> list[str]:
    """With the fewest replicas, and with one more."""
    return [_death(planner, rate, lasts_s, count) for count in around[1:3]]


def _death(planner: Planner, rate: float, lasts_s: float, replicas: int) -> str:
    start = f"One of {replicas} dies, replaced after {lasts_s:g} s:"
    if replicas == 1:
        return f"The only one dies, replaced after {lasts_s:g} s: nothing is answered meanwhile."
    found = planner.one_dies(rate, replicas, lasts_s)
    return f"{start} about {found.lost:.1f} requests are lost inside it; {_meanwhile(found)}; {_after(found)}."


def _meanwhile(found: Outage) -> str:
    caution = "" if found.measured else ", more than the load test answered"
    return (
        f"the others get {found.rate:.4g} a second each{caution}, p99 is {_ms(found.p99_s)} ms, "
        f"{found.refused:.1%} are refused"
    )


def _after(found: Outage) -> str:
    if found.recovery_s is None:
        return "two minutes later p99 is still over the goal"
    return (
        "then p99 is within the goal at once" if not found.recovery_s else f"then {found.recovery_s:.0f} s until normal"
    )


def _counted(replicas: int) -> str:
    return "1 replica" if replicas == 1 else f"{replicas} replicas"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"
