"""Will it hold? A simulation of the pipeline in production: arrivals by the hour, servers, failures, retries.

Pictures arrive at random around a daily curve, wait in one queue, are examined by a pool, and fail now and then
(a worker is lost, a decoder breaks): a failed picture comes back after a delay, a few times, then ends as an error
record. Time goes in steps of one second, in which counts are drawn and not single pictures, so that a day of a
billion costs as much to simulate as a day of a thousand.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

DAY = 86_400


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        per_day: pictures that arrive in a day.
        seconds: of one server for one picture.
        servers: pictures examined at once.
        swing: the busiest hour has ``1 + swing`` times the mean, the quietest ``1 - swing``; in [0, 1].
        failure: share of attempts that fail for reasons of the machine.
        tries: attempts before an error record.
        retry_after: seconds until a failed picture is in the queue again.
        lost_every: mean seconds until one server is lost (its picture with it); 0 = never.
        back_after: seconds until it is replaced.
    """

    per_day: float
    seconds: float
    servers: int
    swing: float = 0.5
    failure: float = 0.002
    tries: int = 3
    retry_after: int = 60
    lost_every: float = 30 * DAY
    back_after: int = 120

    @property
    def load(self) -> float:
        """Mean load of the servers, retries included; the busiest hour's is ``1 + swing`` times as much."""
        attempts = sum(self.failure**n for n in range(self.tries))
        return self.per_day / DAY * attempts * self.seconds / self.servers


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        arrived, done, given_up, waiting: pictures; ``arrived`` is the sum of the others.
        attempts: examinations begun.
        wait_median, wait_99, wait_most: seconds in the queue of those who left it.
        longest_queue: pictures.
        busy: share of the servers' time in use.
    """

    arrived: int
    done: int
    given_up: int
    waiting: int
    attempts: int
    wait_median: float
    wait_99: float
    wait_most: float
    longest_queue: int
    busy: float


def servers_for(per_day: float, seconds: float, *, swing: float = 0.5, headroom: float = 0.15) -> int:
    """Servers that carry the busiest hour with ``headroom`` to spare."""
    return max(1, math.ceil(per_day / DAY * (1 + swing) * seconds * (1 + headroom)))


def simulate(plan: Plan, *, days: float = 1.0, seed: int = 0) -> Outcome:
    """Run a plan; the same seed gives the same outcome."""
    rng = np.random.default_rng(seed)
    queue: deque[list[int]] = deque()  # [second of arrival, tries so far, pictures]
    again: dict[int, list[tuple[int, int]]] = {}
    returning: deque[tuple[int, int]] = deque()
    waits: dict[int, int] = {}
    arrived = done = given_up = attempts = waiting = longest = used = possible = 0
    up, credit = plan.servers, 0.0
    seconds = np.arange(round(days * DAY))
    rates = plan.per_day / DAY * (1 - plan.swing * np.cos(2 * math.pi * seconds / DAY))
    losses = rng.poisson(plan.servers / plan.lost_every if plan.lost_every else 0.0, len(seconds)).tolist()
    for now, fresh in enumerate(rng.poisson(rates).tolist()):
        arrived += fresh
        for tries, count in [(0, fresh), *again.pop(now, ())]:
            if count:
                queue.append([now, tries, count])
                waiting += count
        while returning and returning[0][0] <= now:
            up += returning.popleft()[1]
        lost = min(losses[now], up)
        if lost:
            up -= lost
            returning.append((now + plan.back_after, lost))
        # a picture may take many seconds: what one second can begin adds up, but an idle second is gone
        credit = min(credit + up / plan.seconds, max(1.0, up / plan.seconds))
        begun = min(waiting, int(credit))
        credit -= begun
        possible += plan.servers
        used += begun
        attempts += begun
        lost = min(lost, begun)
        waiting -= begun
        while begun:
            group = queue[0]
            taken = min(begun, group[2])
            waits[now - group[0]] = waits.get(now - group[0], 0) + taken
            begun -= taken
            failed = int(rng.binomial(taken, plan.failure))
            with_server = min(lost, taken - failed)
            lost -= with_server
            failed += with_server
            done += taken - failed
            if failed and group[1] + 1 < plan.tries:
                again.setdefault(now + plan.retry_after, []).append((group[1] + 1, failed))
            else:
                given_up += failed
            group[2] -= taken
            if not group[2]:
                queue.popleft()
        longest = max(longest, waiting)
    later = sum(count for groups in again.values() for _, count in groups)
    half, most_of = _quantiles(waits, (0.5, 0.99))
    return Outcome(
        arrived, done, given_up, waiting + later, attempts, half, most_of, float(max(waits, default=0)), longest,
        used * plan.seconds / max(1, possible),
    )  # fmt: skip


def _quantiles(waits: dict[int, int], shares: tuple[float, ...]) -> list[float]:
    total, found, ordered = sum(waits.values()), [], sorted(waits)
    for share in shares:
        passed = 0
        for wait in ordered:
            passed += waits[wait]
            if passed >= share * total:
                found.append(float(wait))
                break
        else:
            found.append(0.0)
    return found


def cost_per_million(seconds: float, price_per_hour: float, at_once: int, *, load: float = 0.7) -> float:
    """Money for a million pictures on nodes that are busy ``load`` of the time.

    Args:
        seconds: one picture takes, of the ``at_once`` that a node examines side by side.
        price_per_hour: of the node.
        at_once: pictures side by side on a node.
        load: mean load: the rest is headroom for the busiest hour and for failures.
    """
    return 1e6 * seconds / at_once / 3600 * price_per_hour / load


def add_commands(app: typer.Typer) -> None:
    """Add ``throughput`` and ``scale``."""

    @app.command()
    def throughput(
        folder: Annotated[Path, typer.Argument(help="Folder of pictures.")],
        pictures: Annotated[int, typer.Option(help="How many of them.")] = 16,
        ray: Annotated[bool, typer.Option(help="Compare the Ray engine too.")] = True,
        memory: Annotated[
            str, typer.Option(help="Two numbers of small pictures to compare memory at, as 200,5000.")
        ] = "",
        int8: Annotated[bool, typer.Option("--int8", help="Compare the model in eight bits too.")] = False,
        save: Annotated[Path | None, typer.Option(help="Write the ratios as JSON.")] = None,
    ) -> None:
        """Measure what batches gain: ratios of runs on this machine, one after the other."""
        from vlmforensics.eval import throughput as bench
        from vlmforensics.settings import load_settings

        counts = [int(part) for part in memory.split(",")] if memory else []
        if counts and len(counts) != 2:
            raise typer.BadParameter("--memory takes two numbers, as 200,5000")
        ratios = []
        found = bench.measure(folder, load_settings(), pictures=pictures, ray=ray, memory=counts, int8=int8)
        for ratio in found:
            ratios.append(ratio)
            typer.echo(str(ratio))
        if save is not None:
            bench.save(ratios, save)

    @app.command()
    def scale(
        per_day: Annotated[float, typer.Option(help="Pictures a day.")] = 1e9,
        seconds: Annotated[float, typer.Option(help="Of one server for one picture.")] = 1.0,
        servers: Annotated[
            int | None, typer.Option(help="Pictures at once.", show_default="enough for the busiest hour")
        ] = None,
        swing: Annotated[float, typer.Option(help="Busiest hour over the mean, less 1.")] = 0.5,
        days: Annotated[float, typer.Option(help="How long.")] = 1.0,
        seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
    ) -> None:
        """Simulate a day of the pipeline: arrivals, servers, failures, retries."""
        chosen = servers or servers_for(per_day, seconds, swing=swing)
        plan = Plan(per_day, seconds, chosen, swing)
        typer.echo(f"{plan}\nmean load {plan.load:.2f}\n{simulate(plan, days=days, seed=seed)}")
