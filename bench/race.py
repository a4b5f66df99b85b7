"""A race: contenders in turn, round after round, each in a process of its own.

Timings on a shared machine drift by tens of per cent within minutes, ratios within a round
hardly do. So all take turns in every round, and what counts is the median of the ratios.
A process of its own keeps one contender's memory, allocator and compiled code from another's.
"""

import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Contender:
    """make() is called in the contender's process, and gives the function to be timed.

    What that function returns comes back from the last round. make must be importable.
    """

    name: str  # who, and at which precision
    make: Callable[[], Callable[[], object]]


class Result(NamedTuple):
    """What a contender did; seconds of one call, a figure a round."""

    name: str
    seconds: list[float]
    peak_mib: float  # of its process, at the end
    answer: object

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def times_as_fast_as(self, other: "Result") -> float:
        """The median over the rounds of the other's time by this one's."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds))


def race(contenders: Sequence[Contender], rounds: int = 7, least: float = 0.5) -> list[Result]:
    """Time every contender once a round, for at least so many seconds by as many calls as need be.

    The first call, which warms up, and the one that sets the number of calls do not count.
    """
    context = multiprocessing.get_context("spawn")
    runners = []
    for contender in contenders:
        here, there = context.Pipe()
        process = context.Process(target=_runner, args=(contender.make, there), daemon=True)
        process.start()
        there.close()
        runners.append((process, here))
        first = _ask(contender, here, 1)  # one after the other: none disturbs another's warm-up
        calls = max(1, round(least / first[0]))
        runners[-1] += (calls,)
    times, last = [[] for _ in contenders], [None] * len(contenders)
    for _ in range(rounds):
        for i, (_, pipe, calls) in enumerate(runners):
            seconds, *last[i] = _ask(contenders[i], pipe, calls)
            times[i].append(seconds)
    for process, pipe, _ in runners:
        pipe.send(0)
        process.join()
    return [Result(c.name, t, *rest) for c, t, rest in zip(contenders, times, last)]


def _ask(contender: Contender, pipe, calls: int) -> tuple:
    try:
        pipe.send(calls)
        return pipe.recv()
    except (EOFError, ConnectionError):
        raise RuntimeError(
            f"the process of {contender.name} died; its words stand above."
        ) from None


def _runner(make, pipe) -> None:
    run = make()
    run()
    while calls := pipe.recv():
        begin = time.perf_counter()
        for _ in range(calls):
            answer = run()
        seconds = (time.perf_counter() - begin) / calls
        pipe.send((seconds, _peak_mib(), answer))


def _peak_mib() -> float:
    """The most memory that this process has had at once."""
    status = Path("/proc/self/status")
    if status.exists():  # where it is, ru_maxrss counts the parent's memory too
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: bytes
